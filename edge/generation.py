"""The endpoints that every kind of generation has: start it, go on reading it, stop it.

Pure ASGI, so that a token passes through nothing but the server's own `send`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qs

import msgspec
from starlette.types import Message, Receive, Scope, Send

from edge.metrics import Metrics
from edge.orders import Caller, Order
from edge.prompts import REFERENCE, in_own_words, with_prompt
from edge.runs import Note, Runs
from edge.sse import Answering
from edge.state import state_of
from edge.turns import in_conversation
from schemas import frames, ids
from schemas.api.fields import Token
from schemas.commands import Kind
from schemas.errors import InvalidRequest, NotFound

Connection = tuple[Scope, Receive, Send]


class _Usage(msgspec.Struct):
    prompt_tokens: Token = 0
    completion_tokens: Token = 0


_decode_usage = msgspec.json.Decoder(_Usage).decode
_OBJECTS: dict[Kind, str] = {"chat": "chat.completion", "completion": "text_completion"}


@dataclass(frozen=True, slots=True)
class Start:
    """POST: read the body, start a run, answer with what it generates.

    `to_order` validates the body; its second argument says that the query asks for a stream.
    `prompted`: the body may refer to a prompt.
    """

    to_order: Callable[[bytes, bool], Order]
    answering: type[Answering] = Answering
    prompted: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = time.perf_counter()
        body = await read_body(receive)
        if body is None:
            return
        state = state_of(scope)
        prompted, stream = None, query(scope, "stream") == "true"
        if self.prompted and REFERENCE in body:
            prompted = await with_prompt(body, state["stored"].ask, state["principal"].id)
        order = self.to_order(prompted.body if prompted is not None else body, stream)
        if prompted is not None:
            order = in_own_words(order, body, prompted)
        await carry_out(order, (scope, receive, send), started, self.answering)


@dataclass(frozen=True, slots=True)
class Resume:
    """GET …/{id}/stream: go on reading a run after the last frame that the client has got."""

    kind: Kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = time.perf_counter()
        skip = first_wanted(scope)
        runs = state_of(scope)["runs"]
        caller = to_caller(scope)
        run = await runs.resume(to_run_id(scope, self.kind), caller.principal, skip=skip)
        run.note = to_note(scope, caller)
        await answer(runs, Answering(run, runs.options, receive, send, caller.request_id, started))


@dataclass(frozen=True, slots=True)
class Cancel:
    """POST …/{id}/cancel: stop a run. What was generated stays. Idempotent."""

    kind: Kind

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Serve one request."""
        runs = state_of(scope)["runs"]
        run_id, caller = to_run_id(scope, self.kind), to_caller(scope)
        status = await runs.cancel(run_id, caller.principal, to_note(scope, caller))
        told = {
            "id": ids.public_id(run_id, self.kind),
            "object": _OBJECTS[self.kind],
            "status": status,
        }
        await send_json(send, run_id, msgspec.json.encode(told))


async def carry_out(
    order: Order,
    connection: Connection,
    started: float,
    answering: Callable[..., Answering] = Answering,
) -> None:
    """Start a run and answer with what it generates; `started` on the performance counter."""
    scope, receive, send = connection
    state, caller = state_of(scope), to_caller(scope)
    runs = state["runs"]
    if order.into is not None:
        order = await in_conversation(order, state["stored"].ask, caller.principal)
    run = await runs.accept(order, caller)
    run.headers, run.note = order.headers, to_note(scope, caller)
    await answer(runs, answering(run, runs.options, receive, send, caller.request_id, started))
    _count_tokens(state["metrics"], order.model, run.reader.fold)


def to_note(scope: Scope, caller: Caller) -> Note:
    """What notes how far a caller has written."""
    return partial(state_of(scope)["stored"].positions.advance, caller.principal)


async def answer(runs: Runs, answering: Answering) -> None:
    """Answer with what a run generates, and leave it."""
    try:
        await answering.respond()
    finally:
        await runs.leave(answering.run)


def _count_tokens(metrics: Metrics, model: str, fold: frames.Fold) -> None:
    if not fold.committed or fold.last is None:
        return
    usage = frames.decode_commit(fold.last.trailer).usage
    if usage is None:
        return
    try:
        spent = _decode_usage(usage)
    except msgspec.ValidationError:
        return  # the upstream counts in its own way
    metrics.tokens(model, spent.prompt_tokens, spent.completion_tokens)


async def send_json(send: Send, run_id: str, body: bytes) -> None:
    """Answer about a run."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-run-id", run_id.encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive) -> bytes | None:
    """The whole body; None if the client has gone meanwhile."""
    parts: list[bytes] = []
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def to_caller(scope: Scope) -> Caller:
    """Say who asks."""
    state = state_of(scope)
    principal = state["principal"]
    return Caller(
        principal=principal.id,
        request_id=state["request_id"],
        api_key=principal.key_id,
        traceparent=state.get("traceparent"),
        idempotency_key=header(scope, b"idempotency-key"),
    )


def header(scope: Scope, wanted: bytes) -> str | None:
    """A header's value."""
    for name, value in scope["headers"]:
        if name == wanted:
            return str(value, "latin-1")
    return None


def query(scope: Scope, name: str) -> str | None:
    """A query parameter's last value."""
    text: bytes = scope["query_string"]
    if not text:
        return None
    values = parse_qs(text.decode("latin-1")).get(name)
    return values[-1] if values else None


def to_run_id(scope: Scope, kind: str) -> str:
    """Find the run that the path names by its public id of that kind. Raises NotFound."""
    run_id = ids.run_id_of(scope["path_params"]["id"], kind)
    if run_id is None:
        raise NotFound("there is no such run, or its frames are no longer kept")
    return run_id


def last_seen(scope: Scope) -> tuple[str, str | None]:
    """The id of the last event that the client has, and the parameter or header that says it."""
    given = query(scope, "starting_after")
    if given:
        return "starting_after", given
    return "Last-Event-ID", header(scope, b"last-event-id")


def first_wanted(scope: Scope) -> int:
    """The index after the last one that the client has, by query or by header."""
    param, given = last_seen(scope)
    if not given:
        return 0
    if not given.isascii() or not given.isdigit() or len(given) > 9:
        raise InvalidRequest(f"{param} is the index of an event", param=param)
    return int(given) + 1
