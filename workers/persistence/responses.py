"""Stores responses: their objects, and what was asked and answered as items.

It follows from a response's two facts alone, as with other runs: see turns.py.
"""

from typing import Any, Final, NamedTuple

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import ids
from schemas.api import responses as api
from schemas.api.items import MAX_ITEMS_BYTES, Item, id_prefix
from schemas.commands import RunInference, encode
from schemas.errors import InvalidRequest
from schemas.events import RunAccepted, RunFinished
from schemas.responses.prepared import input_items, references
from workers.persistence.changes import Effect, Row
from workers.persistence.queries.responses import find_items
from workers.persistence.refusals import is_refused
from workers.persistence.told import to_stored

logger = structlog.get_logger()

NOUN: Final = "response"
_ENDED: Final = ("completed", "incomplete", "failed")  # statuses that an item keeps

Fields = dict[str, msgspec.Raw]


class _Asked(msgspec.Struct):
    """What of a request is stored as items."""

    input: str | list[msgspec.Raw] | None = None
    previous_response_id: str | None = None


class _Named(msgspec.Struct):
    id: str


class _Object(msgspec.Struct):
    """What is looked at of a response."""

    status: str = ""
    output: list[msgspec.Raw] = []
    previous_response_id: str | None = None
    conversation: _Named | None = None


class _Item(msgspec.Struct):
    id: str
    type: str
    role: str | None = None


class _Stored(NamedTuple):
    """An item, what a model is told of it besides, and when it was said."""

    content: bytes
    told: bytes | None
    at: float


class _Problem(msgspec.Struct):
    message: str = "the response failed"


class _Envelope(msgspec.Struct):
    error: _Problem


_decode_asked = msgspec.json.Decoder(_Asked).decode
_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_object = msgspec.json.Decoder(_Object).decode
_decode_item = msgspec.json.Decoder(_Item).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode


async def to_response(
    connection: AsyncConnection, accepted: RunAccepted, finished: RunFinished, request: bytes
) -> Effect | None:
    """A stored response; None if the request was refused, and its client has been told."""
    command = accepted.command
    if is_refused(finished) and not command.background:
        return None
    body = finished.result or encode(_to_object_of_nothing(command, finished, request))
    try:
        fields, told = _decode_fields(body), _decode_object(body)
        output = [_to_answered(bytes(item), finished) for item in told.output]
    except msgspec.DecodeError as error:
        _note_unreadable(finished.run_id, error)
        return None
    response_id = ids.public_id(finished.run_id, "response")
    said = await read_input(connection, command, request)
    asked = [_Stored(*to_stored(item), accepted.at) for item in said]
    turn = finished.turn
    named = told.conversation.id if told.conversation is not None else None
    row: Row = {
        "id": response_id,
        "principal": command.principal,
        "version": 1,
        "run_id": finished.run_id,
        "model": command.model,
        "status": told.status,
        "previous_response_id": told.previous_response_id,
        "conversation_id": turn.conversation if turn is not None else named,
        "body": encode(fields | {"output": msgspec.Raw(b"[]")}),
        "created_at": command.created,
        "deleted_at": None,
    }
    items = [
        _to_item_row(row, position, item) | {"is_output": position >= len(asked)}
        for position, item in enumerate((*asked, *output))
    ]
    return Effect(NOUN, "stored", response_id, {"responses": [row], "response_items": items})


async def to_said(
    connection: AsyncConnection, command: RunInference, finished: RunFinished, request: bytes
) -> tuple[list[Item], list[Item]]:
    """What was said and what was answered, as a conversation stores it.

    Nothing of a request that was refused: it would be in the way of every later one. What is
    referred to gets an id of its own: the conversation may have it already.
    """
    answered: list[Item] = []
    if finished.result is not None:
        try:
            output = _decode_object(finished.result).output
            answered = [msgspec.json.decode(item) for item in output if _decode_item(item)]
        except msgspec.DecodeError as error:
            _note_unreadable(finished.run_id, error)
            return [], []
    if not answered and _is_refused(finished):
        return [], []
    said = await read_input(connection, command, request)
    for number, item in enumerate(said):
        item["id"] = ids.derived_id(id_prefix(item["type"]), finished.run_id, -1 - number)
    for item in answered:
        if item.get("status", "completed") not in _ENDED:
            item["status"] = "incomplete"
        if item["id"] in finished.told:
            item["told"] = finished.told[item["id"]]
    return said, answered


async def read_input(
    connection: AsyncConnection, command: RunInference, request: bytes
) -> list[Item]:
    """What a response's own request says, as items; what it refers to is in its place."""
    try:
        given = _decode_asked(request).input
        named = [name for name in references(given) if name] if isinstance(given, list) else []
        found = await find_items(connection, command.principal, named) if named else {}
        if len(request) + sum(map(len, found.values())) > MAX_ITEMS_BYTES:
            found = {}  # with the answer it would not fit into one message of the bus
        referred = {name: msgspec.json.decode(item) for name, item in found.items()}
        return input_items(api.ResponseRequest(input=given), command.run_id, referred)
    except (msgspec.DecodeError, InvalidRequest) as error:
        _note_unreadable(command.run_id, error)
        return []


def _to_answered(data: bytes, finished: RunFinished) -> _Stored:
    """Raises msgspec.DecodeError."""
    told = finished.told.get(_decode_item(data).id)
    return _Stored(data, None if told is None else encode(told), finished.at)


def _to_item_row(response: Row, position: int, stored: _Stored) -> Row:
    item = _decode_item(stored.content)
    return {
        "response_id": response["id"],
        "position": position,
        "id": item.id,
        "principal": response["principal"],
        "version": 1,
        "role": item.role,
        "content": stored.content,
        "told": stored.told,
        "created_at": stored.at,
        "deleted_at": None,
    }


def _to_object_of_nothing(
    command: RunInference, finished: RunFinished, request: bytes
) -> dict[str, Any]:
    """The object of a response that no worker has begun, or whose end is too large to be kept."""
    try:
        asked = api.decode_request(request)
    except InvalidRequest:
        asked = api.ResponseRequest(model=command.model)
    told = api.to_object(
        asked,
        ids.public_id(finished.run_id, "response"),
        command.created,
        conversation=finished.turn.conversation if finished.turn is not None else None,
    )
    if finished.status == "cancelled":
        return told | {"status": "cancelled"}
    message = "the response is too large to be stored"
    if finished.error is not None:
        message = _decode_envelope(finished.error).error.message
    return told | {"status": "failed", "error": {"code": "server_error", "message": message}}


def _is_refused(finished: RunFinished) -> bool:
    """Whether the request was at fault, also if that was found only by a step."""
    return is_refused(finished) or (
        finished.error is not None and b'"code":"invalid_prompt"' in bytes(finished.error)
    )


def _note_unreadable(run_id: str, error: Exception) -> None:
    # The error's text may have what was said.
    logger.error("a response can't be read", run_id=run_id, error=type(error).__name__)
