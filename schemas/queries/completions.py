"""Questions about stored completions, `query.completions.<verb>`."""

import msgspec

from schemas.api.lists import Paging
from schemas.queries import Ask


class AskCompletion(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.completions.get`, and with `paging` `query.completions.messages`."""

    id: str
    paging: Paging = Paging()


class AskCompletions(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.completions.list`: by model, by what their metadata has."""

    paging: Paging = Paging()
    model: str | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
