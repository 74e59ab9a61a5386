"""The settings of the loop's worker."""

from pydantic import Field

from workers.runtime import WorkerSettings


class ResponsesSettings(WorkerSettings):
    """What the worker of the loop is told."""

    slots: int = Field(
        default=512,
        ge=1,
        description="Responses at the same time. Most of them wait for a model or a tool, at about "
        "30 KiB each; more wait in the queue.",
    )
    drain_timeout: float = Field(
        default=0.0,
        ge=0,
        description="Seconds that responses have to end after SIGTERM. None: another worker goes "
        "on with them where they stand, and no step is done again.",
    )
    ack_wait: float = Field(
        default=2.0,
        gt=0,
        description="Seconds without a heartbeat after which the server gives a job to another "
        "worker: the consumers' ack_wait.",
    )
    max_deliver: int = Field(
        default=20, ge=2, description="Deliveries of a job: the consumers' max_deliver."
    )
    response_depth: int = Field(
        default=8,
        ge=1,
        le=64,
        description="Steps of inference in one response. The last one is offered no tools, so that "
        "a model which calls them for ever comes to an answer.",
    )
    response_tool_calls: int = Field(
        default=64,
        ge=1,
        description="Calls of tools in one response, whatever the request's `max_tool_calls` says: "
        "each costs a worker's time.",
    )
    response_bytes: int = Field(
        default=2 * 1024 * 1024,
        ge=65536,
        le=3 * 1024 * 1024,
        description="Size of a response's output. It travels in one message of the bus, which may "
        "have 8 MiB, beside what was asked.",
    )
