"""Questions about responses, `query.responses.<verb>`, and their answers."""

import msgspec

from schemas.api.lists import Paging
from schemas.commands import UsedHistory
from schemas.queries import Ask


class AskResponse(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.responses.get`: a response as it was stored at its end."""

    id: str


class AskResponseInput(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.responses.input`: the items of a response's own input, newest first."""

    id: str
    paging: Paging = Paging()


class AskResponseContext(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.responses.context`: what a new response goes on from.

    `previous` is the response before it, with all that came before that; `references` are ids of
    items, of any response's input or output, or of a conversation; "" stands for none. `deleted`:
    `previous` may have been deleted, and what came before it is there still.
    """

    previous: str | None = None
    references: list[str] = msgspec.field(default_factory=list)
    deleted: bool = False


class ResponseContext(msgspec.Struct, frozen=True):
    """The answer of `query.responses.context`: items, oldest first, and those referred to by id.

    `history` is what was said before the items, if the oldest response was made in a conversation.
    NotFound names what is missing: `previous_response_id`, or `input[2].id`.
    """

    items: list[msgspec.Raw]
    referred: dict[str, msgspec.Raw]
    history: UsedHistory | None = None
