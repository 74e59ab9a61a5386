"""Models, as clients see them."""

from typing import Literal

from msgspec import Struct

from schemas import catalogue


class Model(Struct, frozen=True):
    """A model that is served. The last three fields are ours; an SDK ignores them."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    capabilities: list[str]
    context_length: int | None
    description: str | None


class ModelList(Struct, frozen=True):
    """All models that are served."""

    object: Literal["list"]
    data: list[Model]


def to_model(model: catalogue.Model) -> Model:
    """Show a model of the catalogue."""
    return Model(
        id=model.id,
        object="model",
        created=model.created,
        owned_by=model.owned_by,
        capabilities=model.capabilities,
        context_length=model.context_length,
        description=model.description,
    )
