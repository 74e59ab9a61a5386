"""The models that are served, as the watched catalogue tells."""

from collections.abc import Callable

import msgspec
import structlog

from schemas import subjects
from schemas.api.models import ModelList, Status, to_model
from schemas.catalogue import Catalogue, Model, decode_catalogue
from schemas.errors import ModelNotFound

logger = structlog.get_logger()


class Models:
    """The catalogue; `on_update` is told of each new one, `status_of` says how a model is doing."""

    def __init__(
        self,
        on_update: Callable[[Catalogue], None],
        status_of: Callable[[Model], Status] = lambda _: "live",
    ) -> None:
        self._on_update = on_update
        self._status_of = status_of
        self._models: dict[str, Model] = {}
        self.catalogue = Catalogue()
        self._take(self.catalogue)

    def __contains__(self, model: object) -> bool:
        """Tell whether a model is served."""
        return model in self._models

    def __len__(self) -> int:
        """How many models are served."""
        return len(self._models)

    def on_change(self, key: str, value: bytes | None, _revision: int) -> None:
        """Take a change from the bucket's watch; what can't be read changes nothing."""
        if key != subjects.CATALOGUE_KEY or value is None:
            return
        try:
            self._take(decode_catalogue(value))
        except msgspec.MsgspecError as error:
            logger.error("the catalogue can't be read", error=str(error))

    def describe(self, model_id: str) -> bytes:
        """One model as JSON. Raises ModelNotFound."""
        model = self._models.get(model_id)
        if model is None:
            raise ModelNotFound(f"the model {model_id!r} does not exist", param="model")
        return msgspec.json.encode(to_model(model, self._status_of(model)))

    def listing(self) -> bytes:
        """All models as JSON."""
        shown = [to_model(model, self._status_of(model)) for model in self.catalogue.models]
        return msgspec.json.encode(ModelList(object="list", data=shown))

    def owners(self) -> set[str]:
        """The providers that own the models."""
        return {model.owned_by for model in self._models.values()}

    def first_chat(self) -> str | None:
        """The first model that can chat: what a client begins with."""
        for model in self.catalogue.models:
            if not model.capabilities or "chat" in model.capabilities:
                return model.id
        return None

    def capabilities(self) -> set[str]:
        """What at least one of the models can do."""
        return {name for model in self._models.values() for name in model.capabilities}

    def _take(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._models = {model.id: model for model in catalogue.models}
        self._on_update(catalogue)
