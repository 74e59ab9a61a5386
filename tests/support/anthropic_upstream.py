"""A scripted upstream that speaks Anthropic's Messages on a real socket.

It is the one of `tests.support.upstream` in other words: the same scripts, the same cues. Every
request is checked against the types of Anthropic's own SDK.

    async with open_anthropic_upstream() as upstream:
        upstream.script(Fail(529), Answer())

As a process: `python -m tests.support.anthropic_upstream --port 0`, steered as the other one.
"""

import functools
from dataclasses import replace
from typing import Any

import msgspec
from anthropic.types.message_create_params import (
    MessageCreateParamsNonStreaming,
    MessageCreateParamsStreaming,
)
from pydantic import TypeAdapter, ValidationError

from edge.messages.answer import to_message
from edge.messages.request import to_chat
from edge.messages.stream import MessageStream
from schemas import frames
from schemas.api import messages
from schemas.errors import InvalidRequest
from tests.support.upstream import (
    Answer,
    Call,
    Fail,
    Part,
    _Connection,
    _text,
    open_upstream,
    run,
)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_RUN = "run_01hzzzzzzzzzzzzzzzzzzzzzzz"


@functools.cache
def _adapter(stream: bool) -> TypeAdapter[Any]:
    return TypeAdapter(MessageCreateParamsStreaming if stream else MessageCreateParamsNonStreaming)


def fault_of(body: dict[str, Any]) -> str | None:
    """What is wrong with a request, by the SDK's types and by what the API says in words."""
    kind = MessageCreateParamsStreaming if body.get("stream") else MessageCreateParamsNonStreaming
    unknown = set(body) - set(kind.__required_keys__ | kind.__optional_keys__)
    if unknown:
        return f"unknown fields: {sorted(unknown)}"
    try:
        _adapter(bool(body.get("stream"))).validate_python(body)
    except ValidationError as error:
        return str(error)
    roles = [message["role"] for message in body["messages"]]
    if roles != [("user", "assistant")[number % 2] for number in range(len(roles))]:
        return f"roles do not take turns: {roles}"
    texts = [
        block["text"]
        for message in body["messages"]
        for block in message["content"]
        if not isinstance(block, str) and block["type"] == "text"
    ]
    return "text content blocks must be non-empty" if "" in texts else None


class _MessagesConnection(_Connection):
    """Says in Messages what its parent says in OpenAI's form."""

    _translate: MessageStream | None = None
    _frame = 0

    async def _answer(self, call: Call, part: Part) -> None:
        counts = call.path.endswith("/count_tokens")
        body = call.body if not counts else {**call.body, "max_tokens": 1}
        fault = fault_of(body)
        if fault is not None and isinstance(part, Answer):
            part = Fail(400, fault)
        shadow = replace(call, body=_to_chat(body) if fault is None else body)
        if counts and isinstance(part, Answer):
            self._send_json(200, {"input_tokens": _text(shadow.body).prompt_tokens})
            return
        await super()._answer(shadow, part)

    async def _stream(self, call: Call, stop: int | None = None) -> None:
        self._translate, self._frame = MessageStream(_RUN), 0
        try:
            await super()._stream(call, stop)
        finally:
            self._translate = None

    def _send_chunk(self, data: bytes) -> None:
        if self._translate is not None:
            chunk = data.removeprefix(b"data: ").removesuffix(b"\n\n")
            data = self._translate.feed(frames.sse(self._frame, chunk))
            self._frame += 1
        if data:
            super()._send_chunk(data)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        if status == 200 and b'"chat.completion"' in body:
            body = to_message(body, _RUN)
        super()._send(status, body, headers)

    def _send_failure(self, part: Fail) -> None:
        message = part.body if part.body is not None else "it broke"
        error = {"type": _TYPES.get(part.status, "api_error"), "message": message}
        body = msgspec.json.encode({"type": "error", "error": error, "request_id": "req_upstream"})
        self._send(part.status, body, part.headers)


def _to_chat(body: dict[str, Any]) -> dict[str, Any]:
    """The request in OpenAI's form, as the simulated model takes it."""
    try:
        request = messages.decode_request(msgspec.json.encode(body))
    except InvalidRequest as error:
        raise AssertionError(f"{error.param}: {error.message}") from error
    return dict(msgspec.json.decode(to_chat(request)))


# Serve one in this process, on a free port.
open_anthropic_upstream = functools.partial(open_upstream, speaking=_MessagesConnection)


if __name__ == "__main__":
    run(__doc__, _MessagesConnection)
