"""The inference worker's settings."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from workers.runtime import WorkerSettings


class InferenceSettings(WorkerSettings):
    """What the inference worker is told."""

    providers: Path | None = Field(
        default=None,
        description="The providers file. Without one the models that come along are served, so "
        "that everything can be tried before a key is at hand.",
    )
    pools: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="Pools to work for, separated by commas. Empty: all of the providers file; "
        "name some to scale one provider's workers alone.",
    )
    slots: int = Field(
        default=256,
        ge=1,
        description="Runs at the same time. One core carries about 256 streams of 50 tokens/s; "
        "more wait in the queue, where other workers can take them.",
    )
    drain_timeout: float = Field(
        default=30.0,
        ge=0,
        description="Seconds that runs have to end after SIGTERM; then other workers go on with "
        "them. 30 is what Kubernetes allows by default.",
    )
    ack_wait: float = Field(
        default=2.0,
        gt=0,
        description="Seconds without a heartbeat after which the server gives a job to another "
        "worker: the consumers' ack_wait. A worker that was frozen for longer stops its runs.",
    )
    max_deliver: int = Field(
        default=20,
        ge=2,
        description="Deliveries of a job: the consumers' max_deliver. The last one only tells the "
        "readers; so does the fifth in a row that finds nothing added, so that a job that kills "
        "its workers ends and those beside it go on.",
    )
    requests_kept: float = Field(
        default=86400.0,
        ge=3600,
        description="Seconds that request bodies over 1 MiB stay in the object store. A day is how "
        "long a job can wait in its queue; nothing reads them after it.",
    )

    @field_validator("pools", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [name for name in value.split(",") if name] if isinstance(value, str) else value
