"""/v1/messages: Anthropic's form of a chat, on any engine. Start, resume, cancel, count."""

import re
import time
from typing import Final

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from edge.generation import Start, answer, last_seen, send_json, to_caller, to_run_id
from edge.messages.answering import CountAnswering, MessagesAnswering
from edge.messages.request import to_chat
from edge.messages.stream import Position
from edge.orders import Order
from edge.state import state_of
from schemas import ids
from schemas.api import messages
from schemas.api.needs import needs_of_messages
from schemas.errors import InvalidRequest

_EVENT_ID: Final = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,4}))?")


def to_order(body: bytes, stream: bool) -> Order:
    """Validate a Messages request and translate it. Raises InvalidRequest naming the field."""
    request = messages.decode_request(body)
    request.stream = stream or bool(request.stream)
    return Order(
        kind="chat",
        model=request.model,
        body=to_chat(request),
        stream=request.stream,
        include_usage=request.stream,
        needs=needs_of_messages(request),
    )


def to_count(body: bytes, stream: bool) -> Order:  # noqa: ARG001 (a number has no stream)
    """Validate a question for a prompt's tokens. Raises InvalidRequest naming the field."""
    request = messages.decode_count(body)
    needs = needs_of_messages(request)
    return Order(kind="count", model=request.model, body=to_chat(request), needs=needs)


class Resume:
    """GET …/{id}/stream: go on after the last event that the client has got.

    The run is read from its beginning, as each event follows from all frames before it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = time.perf_counter()
        after = _to_position(scope)
        runs, caller = state_of(scope)["runs"], to_caller(scope)
        run = await runs.resume(to_run_id(scope, "message"), caller.principal)
        answering = MessagesAnswering(
            run, runs.options, receive, send, caller.request_id, started, after=after
        )
        await answer(runs, answering)


class Cancel:
    """POST …/{id}/cancel: stop a message. What was generated stays. Idempotent."""

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Serve one request."""
        runs, run_id = state_of(scope)["runs"], to_run_id(scope, "message")
        status = await runs.cancel(run_id, to_caller(scope).principal)
        public_id = ids.public_id(run_id, "message")
        told = {"id": public_id, "type": "message", "status": status}
        await send_json(send, run_id, msgspec.json.encode(told))


def _to_position(scope: Scope) -> Position:
    param, given = last_seen(scope)
    if not given:
        return Position()
    match = _EVENT_ID.fullmatch(given)
    if match is None:
        raise InvalidRequest(f"{param} is the id of an event", param=param)
    frame = int(match[1])
    return Position(frame, int(match[2])) if match[2] else Position(frame + 1)


ROUTES: list[BaseRoute] = [
    Route("/v1/messages", Start(to_order, MessagesAnswering), methods=["POST"]),
    Route("/v1/messages/count_tokens", Start(to_count, CountAnswering), methods=["POST"]),
    Route("/v1/messages/{id}/stream", Resume(), methods=["GET"]),
    Route("/v1/messages/{id}/cancel", Cancel(), methods=["POST"]),
]
