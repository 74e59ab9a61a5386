"""Chatting in a conversation: its messages, runs on it, answers made anew."""

import time
from typing import Any, Final

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from edge.generation import Connection, carry_out, query, read_body, to_caller
from edge.orders import Caller, Into
from edge.requests import answer_json, read_paging, stored_of
from edge.requests import read_body as read_small_body
from edge.routes.chat import order_of
from edge.routes.conversations import NOUN
from edge.state import state_of
from edge.stored import Stored
from schemas import ids, writes
from schemas.api import chat
from schemas.api import turns as api
from schemas.api.items import to_items
from schemas.api.needs import needs_of
from schemas.commands import encode
from schemas.errors import (
    BusUnavailable,
    Conflict,
    InvalidRequest,
    JanError,
    NotFound,
    RateLimited,
    Unavailable,
)
from schemas.queries.conversations import AskItems

logger = structlog.get_logger()

_REFUSALS: Final = (RateLimited, Conflict, InvalidRequest, NotFound, Unavailable)
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_OWN: Final = ("content", "branch", "conversation")  # fields that no engine knows


async def list_messages(request: Request) -> Response:
    """GET /v1/conversations/{id}/messages: the texts of a branch, newest first."""
    stored, caller = stored_of(request)
    question = AskItems(
        principal=caller.principal,
        conversation=request.path_params["id"],
        paging=read_paging(request),
        branch=request.query_params.get("branch"),
    )
    return answer_json(await stored.ask(NOUN, "messages", question))


async def add_message(request: Request) -> Response:
    """POST /v1/conversations/{id}/messages: append one, without running a model."""
    stored, caller = stored_of(request)
    given = await read_small_body(request, api.decode_add)
    message = {"type": "message", "role": given.role, "content": given.content}
    items = to_items([msgspec.Raw(encode(message))], "content")
    body = writes.AddItems(
        conversation=request.path_params["id"],
        items=[msgspec.Raw(encode(item)) for item in items],
        branch=given.branch,
    )
    answer = await stored.command(NOUN, "add_items", caller, body)
    added = msgspec.json.decode(answer, type=_Added)
    message_id = added.data[0].id
    told = api.ConversationMessage(
        id=message_id,
        role=given.role,
        content=given.content,
        status="completed",
        created_at=ids.created_ms(message_id) // 1000,
    )
    return answer_json(encode(told))


class RunOn:
    """POST /v1/conversations/{id}/runs: run a model on a conversation, and store its answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = time.perf_counter()
        body = await read_body(receive)
        if body is None:
            return
        request = chat.decode_turn(body)
        fields = _decode_fields(body)
        if request.content is not None:
            if request.messages:
                raise InvalidRequest("'content' takes the place of 'messages'", param="content")
            said = {"role": "user", "content": fields["content"]}
            fields["messages"] = msgspec.Raw(encode([said]))
            request.messages = [chat.UserMessage(content=request.content)]
        into = Into(scope["path_params"]["id"], request.branch, request.store is not False)
        await _run(request, fields, into, (scope, receive, send), started)


class Regenerate:
    """POST /v1/conversations/{id}/items/{item_id}/regenerate: another answer, on a new branch."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = time.perf_counter()
        body = await read_body(receive)
        if body is None:
            return
        request = chat.decode_regenerate(body)
        state, caller = state_of(scope), to_caller(scope)
        state["runs"].require(request.model, "chat", needs_of(request))
        path = scope["path_params"]
        command = writes.Regenerate(path["id"], path["item_id"])
        answer = await state["stored"].command(NOUN, "regenerate", caller, command)
        forked = msgspec.json.decode(answer, type=api.Forked)
        into = Into(forked.conversation, forked.branch)
        try:
            await _run(request, _decode_fields(body), into, (scope, receive, send), started)
        except _REFUSALS as refusal:
            # It may have been accepted; and a repeat under the same key goes on with this fork.
            if caller.idempotency_key is None and not isinstance(refusal, BusUnavailable):
                await _take_back(state["stored"], caller, forked)
            raise


async def _take_back(stored: Stored, caller: Caller, forked: api.Forked) -> None:
    """Remove the fork of a run that was refused, as if nobody had asked for it."""
    for verb, name in (("activate_branch", forked.parent), ("delete_branch", forked.branch)):
        body = writes.NamedBranch(forked.conversation, name)
        try:
            await stored.command(NOUN, verb, caller, body)
        except JanError as error:
            logger.warning("an empty fork stays", branch=forked.branch, error=error.message)
            return


async def _run(
    request: chat.ChatRequest,
    fields: dict[str, msgspec.Raw],
    into: Into,
    connection: Connection,
    started: float,
) -> None:
    """Run a model on a conversation; what is logged says on which, like any chat request."""
    for name in _OWN:
        fields.pop(name, None)
    named: dict[str, Any] = {"id": into.conversation}
    if into.branch is not None:
        named["branch"] = into.branch
    fields["conversation"] = msgspec.Raw(encode(named))
    fields.setdefault("messages", msgspec.Raw(b"[]"))
    order = order_of(request, encode(fields), query(connection[0], "stream") == "true", into)
    await carry_out(order, connection, started)


class _Known(msgspec.Struct):
    id: str


class _Added(msgspec.Struct):
    data: list[_Known]


_ONE: Final = "/v1/conversations/{id}"
ROUTES: list[BaseRoute] = [
    Route(f"{_ONE}/messages", list_messages, methods=["GET"]),
    Route(f"{_ONE}/messages", add_message, methods=["POST"]),
    Route(f"{_ONE}/runs", RunOn(), methods=["POST"]),
    Route(f"{_ONE}/items/{{item_id}}/regenerate", Regenerate(), methods=["POST"]),
]
