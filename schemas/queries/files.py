"""Questions about what files say, `query.files.<verb>`.

Nothing in them says how it is found: words today, vectors beside them later.
"""

from typing import Annotated, Any

import msgspec

from schemas.filters import Filter
from schemas.queries import Ask

MAX_HITS = 50


class AskSearch(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.files.search`: the pieces that fit a text best.

    Of some documents, or stores, or those with certain attributes, or of all.
    """

    query: str
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_HITS)] = 10
    documents: list[str] = msgspec.field(default_factory=list)
    stores: list[str] = msgspec.field(default_factory=list)
    filters: Filter | None = None


class Hit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece that was found; `score` is from 0 to 1, and comparable within one answer only."""

    document: str
    number: int  # of the piece in the document
    text: str
    score: float
    store: str = ""
    name: str = ""
    attributes: dict[str, Any] = {}


class Hits(msgspec.Struct, frozen=True):
    """The answer, best first."""

    hits: list[Hit]
