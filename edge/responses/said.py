"""What was said up to a response, where not all of that is stored: its WebSocket remembers it."""

from typing import Any, Final, NamedTuple

import msgspec

from edge.orders import Order
from schemas.api.hosted import Told
from schemas.api.items import Item
from schemas.commands import UsedHistory
from schemas.responses.story import Ended

_GONE_ON_FROM: Final = ("completed", "incomplete")


class Said(NamedTuple):
    """All that was said up to the end of `response`.

    What is stored is read again: the response `after` with those before it, or as much of a
    conversation as `history` says. `items` came after that.
    """

    response: str
    items: list[Item]
    after: str | None = None
    history: UsedHistory | None = None


class _Response(msgspec.Struct):
    id: str
    status: str
    output: list[dict[str, Any]]
    previous_response_id: str | None = None


_decode_response = msgspec.json.Decoder(_Response).decode


def to_said(order: Order, before: Said | None, ended: Ended) -> Said | None:
    """What was said with a response that has ended; `before` is what was up to the one before it.

    None if all of it is stored, or nobody can go on from it: however it has ended, one that is
    stored can be gone on from.
    """
    if order.store and before is None:
        return None
    response = _decode_response(ended.response)
    if not order.store and response.status not in _GONE_ON_FROM:
        return None
    if before is None:
        before = Said("", [], response.previous_response_id, order.history)
    output = [_with_told(item, ended.told) for item in response.output]
    return before._replace(response=response.id, items=[*before.items, *order.asked, *output])


def _with_told(item: Item, told: dict[str, Told]) -> Item:
    """An item as a model's context has it."""
    one = told.get(item["id"])
    return item if one is None else item | {"told": msgspec.to_builtins(one)}
