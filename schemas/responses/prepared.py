"""What an edge adds to a response's request for the loop: what the request only refers to."""

from collections.abc import Iterable
from typing import Final

import msgspec

from schemas.api.decoding import decoder
from schemas.api.hosted import MadeFile
from schemas.api.items import Item, id_prefix, to_item, to_message
from schemas.api.responses import ResponseRequest
from schemas.errors import InvalidRequest
from schemas.ids import derived_id
from schemas.raw import OptionalRaw
from schemas.responses.recorded import Recorded

_ASKED: Final = "mcp_approval_request"


class Prepared(msgspec.Struct, omit_defaults=True):
    """The field `prepared` of a job's request.

    `context` are the items of the responses before this one, `messages` a conversation's history as
    chat has it, `instruction` its project's. `referred` are the items that the input refers to, by
    their ids. `files` are those that earlier code has made. `in_words`: no deployment can be held
    to a JSON schema, so the model is told of it. `recorded`: it is a replay, and tools are not
    called.
    """

    context: list[Item] = []
    messages: OptionalRaw = None
    instruction: str | None = None
    conversation: str | None = None
    referred: dict[str, Item] = {}
    files: list[MadeFile] = []
    in_words: bool = False
    recorded: Recorded | None = None


class PreparedRequest(ResponseRequest):
    """A job's request."""

    prepared: Prepared = msgspec.field(default_factory=Prepared)


# What is asked was checked before; what was said before may have NUL, as models and tools say it.
decode_prepared = decoder(PreparedRequest, with_nul=True)


def calls_of(items: Iterable[Item]) -> set[str]:
    """The questions for approval whose calls were made."""
    return {item.get("approval_request_id") or "" for item in items if item["type"] == "mcp_call"}


class _Reference(msgspec.Struct):
    id: str = ""
    type: str = "message"


_decode_reference = msgspec.json.Decoder(_Reference).decode


def references(given: list[msgspec.Raw]) -> list[str]:
    """The ids that an input's `item_reference`s name, each in its place; "" for other items."""
    return [one.id if one.type == "item_reference" else "" for one in map(_to_reference, given)]


def input_items(
    request: ResponseRequest, run_id: str, referred: dict[str, Item] | None = None
) -> list[Item]:
    """A request's input as items, with ids that follow from the run. Raises InvalidRequest."""
    given = request.input
    if given is None:
        return []
    if isinstance(given, str):
        items = [to_message(msgspec.Raw(msgspec.json.encode(given)), "user")]
    else:
        items = _to_items(given, referred or {})
    for number, item in enumerate(items):
        if "id" not in item:
            item["id"] = derived_id(id_prefix(item["type"]), run_id, -1 - number)
    return items


def _to_items(given: list[msgspec.Raw], referred: dict[str, Item]) -> list[Item]:
    items: list[Item] = []
    for number, raw in enumerate(given):
        reference = _to_reference(raw)
        if reference.type == "item_reference":
            if reference.id not in referred:
                raise InvalidRequest(
                    f"'input[{number}].id' names no item", param=f"input[{number}].id"
                )
            items.append(referred[reference.id])
        else:
            items.append(to_item(raw, f"input[{number}]"))
            if items[-1]["type"] == _ASKED and reference.id:
                items[-1]["id"] = reference.id  # its answer names it
    return items


def _to_reference(raw: msgspec.Raw) -> _Reference:
    try:
        return _decode_reference(raw)
    except msgspec.DecodeError:
        return _Reference()
