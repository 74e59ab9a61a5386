"""The catalogue: which models are served, and by which deployments. No secrets in it."""

import msgspec


class Deployment(msgspec.Struct, frozen=True):
    """One place that serves a model: `id` is `<provider>/<model id>`.

    An empty `capabilities` says nothing is known of them: it may do all. `discovered`: its provider
    listed it, the file does not.
    """

    id: str
    pool: str
    priority: int = 0
    weight: int = 1
    rpm: int = 0
    in_flight: int = 0
    capabilities: list[str] = []
    provider: str = ""
    kind: str = ""
    discovered: bool = False


class Model(msgspec.Struct, frozen=True):
    """A model as clients name it; `capabilities` is what any of its deployments is known to do."""

    id: str
    created: int
    owned_by: str
    deployments: list[Deployment]
    capabilities: list[str] = []
    context_length: int | None = None
    description: str | None = None


class Catalogue(msgspec.Struct, frozen=True):
    """All models, in the order of providers.yaml."""

    models: list[Model] = []
    v: int = 1


decode_catalogue = msgspec.json.Decoder(Catalogue).decode
