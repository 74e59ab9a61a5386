"""Models, as clients see them."""

from typing import Literal

from msgspec import Struct

from schemas import catalogue

Status = Literal["live", "degraded", "down"]


class Model(Struct, frozen=True):
    """A model that is served. The last four fields are ours; an SDK ignores them.

    `live`: all its deployments work; `degraded`: some do; `down`: none does, or no worker is there.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    capabilities: list[str]
    context_length: int | None
    status: Status
    description: str | None


class ModelList(Struct, frozen=True):
    """All models that are served."""

    object: Literal["list"]
    data: list[Model]


def to_model(model: catalogue.Model, status: Status) -> Model:
    """Show a model of the catalogue."""
    return Model(
        id=model.id,
        object="model",
        created=model.created,
        owned_by=model.owned_by,
        capabilities=model.capabilities,
        context_length=model.context_length,
        status=status,
        description=model.description,
    )
