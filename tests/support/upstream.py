"""A scripted OpenAI-compatible upstream on a real socket.

Without a script it answers as the simulated model does, cues included (`!die` cuts the connection).
It counts calls and sees when a client goes away. In a test's own process:

    async with open_upstream() as upstream:
        upstream.script(Fail(500), Answer())
        ...
        await upstream.calls[0].closed.wait()

Or as a process, steered over HTTP; it prints `{"port": N}` when it is ready:

    python -m tests.support.upstream --port 0 [--ttft-ms MS] [--token-ms MS]
    GET  /control/calls     {"calls": [...], "open": N}
    POST /control/script    [{"kind": "fail", "status": 500}, {"kind": "answer"}, ...]
    POST /control/reset     forgets calls and script
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
import msgspec

from schemas.errors import JanError
from workers.inference.engines import Generation
from workers.inference.engines.simulation.answers import Answer as Text
from workers.inference.engines.simulation.answers import answer_chat, answer_completion
from workers.inference.engines.simulation.chunks import to_body, to_steps
from workers.inference.engines.simulation.vectors import embed

_encode = msgspec.json.encode


class Answer(msgspec.Struct, frozen=True, tag_field="kind", tag="answer"):
    """Answer properly, as the simulated model does."""


class Fail(msgspec.Struct, frozen=True, tag_field="kind", tag="fail"):
    """Answer with a status; without a body, with OpenAI's envelope."""

    status: int = 500
    body: str | None = None
    headers: dict[str, str] = {}


class Silent(msgspec.Struct, frozen=True, tag_field="kind", tag="silent"):
    """Take the request and never answer."""


class Stall(msgspec.Struct, frozen=True, tag_field="kind", tag="stall"):
    """Go silent after the head and so many steps of the stream."""

    after: int = 0


class Cut(msgspec.Struct, frozen=True, tag_field="kind", tag="cut"):
    """Cut the connection after the head and so many steps of the stream."""

    after: int = 0


class Body(msgspec.Struct, frozen=True, tag_field="kind", tag="body"):
    """Answer 200 with these pieces of a body, then end as told."""

    pieces: list[bytes]
    end: str = "proper"  # proper | cut (before the last chunk) | hang
    content_type: str = "text/event-stream"
    status: int = 200
    headers: dict[str, str] = {}


class Wire(msgspec.Struct, frozen=True, tag_field="kind", tag="wire"):
    """Send exactly these bytes as the response, then close."""

    data: bytes
    close: bool = True


Part = Answer | Fail | Silent | Stall | Cut | Body | Wire


@dataclass
class Call:
    """A request as the upstream saw it; times are time.time()."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    at: float
    ended_at: float | None = None  # the answer was sent to its end
    closed_at: float | None = None  # the client went away before that
    chunks: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    closed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """What GET /control/calls tells of it."""
        names = ("number", "method", "path", "body", "at", "ended_at", "closed_at", "chunks")
        return {name: getattr(self, name) for name in names}


class Upstream:
    """The upstream's state, shared by its connections."""

    def __init__(self, ttft_ms: float = 0.0, token_ms: float = 0.0) -> None:
        self.ttft = ttft_ms / 1000
        self.pace = token_ms / 1000
        self.models = ["test-model"]
        self.check_fails_with = 0  # the status that GET /models answers with instead
        self.always: Part = Answer()  # how calls beyond the script are answered
        self.calls: list[Call] = []
        self.connections: set[_Connection] = set()
        self.accepted = 0  # connections ever
        self.port = 0
        self._script: deque[Part] = deque()
        self._more = asyncio.Condition()

    @property
    def base_url(self) -> str:
        """What a provider's base_url is."""
        return f"http://127.0.0.1:{self.port}/v1"

    def script(self, *parts: Part) -> None:
        """Say how to answer the next calls, one after the other; then it answers properly."""
        self._script.extend(parts)

    def reset(self) -> None:
        """Forget calls and script."""
        self.calls.clear()
        self._script.clear()

    def next_part(self) -> Part:
        """How to answer this call."""
        return self._script.popleft() if self._script else self.always

    async def count(self, number: int) -> list[Call]:
        """Wait until so many calls have come."""
        async with self._more:
            await self._more.wait_for(lambda: len(self.calls) >= number)
        return self.calls

    async def note(self, call: Call) -> None:
        """Take a call into the list."""
        async with self._more:
            self.calls.append(call)
            self._more.notify_all()

    def close_idle(self) -> None:
        """Close the kept connections, as servers do after a while."""
        for connection in [one for one in self.connections if one.task is None]:
            # In the kernel at once: the other side may look before this loop turns.
            number = connection.transport.get_extra_info("socket").fileno()
            with socket.socket(fileno=os.dup(number)) as same:
                same.shutdown(socket.SHUT_RDWR)
            connection.transport.close()


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._writable = asyncio.Event()
        self._writable.set()
        self._call: Call | None = None
        self._path = b""
        self._headers: dict[str, str] = {}
        self._body = b""
        self.task: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass of it
        self._upstream.connections.add(self)
        self._upstream.accepted += 1

    def connection_lost(self, _: Exception | None) -> None:
        self._upstream.connections.discard(self)
        self.gone.set()
        self._writable.set()
        if self._call is not None and self._call.ended_at is None:
            self._call.closed_at = time.time()
            self._call.closed.set()
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._handle())

    async def _handle(self) -> None:
        call = Call(
            number=len(self._upstream.calls),
            method=self._parser.get_method().decode(),
            path=self._path.decode(),
            headers=self._headers,
            body=msgspec.json.decode(self._body) if self._body else None,
            at=time.time(),
        )
        self._path, self._headers, self._body = b"", {}, b""
        if call.path.startswith("/control/"):
            self._control(call)
        elif call.path.endswith("/models") and self._upstream.check_fails_with:
            self._send_failure(Fail(self._upstream.check_fails_with))
        elif call.path.endswith("/models"):
            data = [{"id": name, "object": "model"} for name in self._upstream.models]
            self._call = call
            self._send_json(200, {"object": "list", "data": data})
        else:
            self._call = call
            await self._upstream.note(call)
            await self._answer(call, self._upstream.next_part())
            call.ended_at = time.time()
            call.ended.set()
        self._call = self.task = None

    def _control(self, call: Call) -> None:
        match call.path:
            case "/control/calls":
                calls = [known.to_dict() for known in self._upstream.calls]
                busy = sum(
                    known.ended_at is None and known.closed_at is None
                    for known in self._upstream.calls
                )
                self._send_json(200, {"calls": calls, "open": busy})
            case "/control/script":
                try:
                    self._upstream.script(*msgspec.convert(call.body, list[Part]))
                    self._send_json(200, {})
                except msgspec.ValidationError as error:
                    self._send_json(400, {"error": str(error)})
            case "/control/reset":
                self._upstream.reset()
                self._send_json(200, {})
            case _:
                self._send_json(404, {})

    async def _answer(self, call: Call, part: Part) -> None:
        match part:
            case Answer():
                await self._answer_properly(call)
            case Fail():
                self._send_failure(part)
            case Silent():
                await asyncio.Event().wait()
            case Stall():
                await self._stream(call, stop=part.after)
                await asyncio.Event().wait()
            case Cut():
                await self._stream(call, stop=part.after)
                await self._cut()
            case Body():
                await self._send_pieces(part)
            case Wire():
                self.transport.write(part.data)
                if part.close:
                    self.transport.close()

    async def _answer_properly(self, call: Call) -> None:
        try:
            if call.path.endswith("/embeddings"):
                fields = _fields(call.body)
                body, _ = embed(fields, str(call.body["model"]), 0)
                self._send(200, body)
            elif call.body.get("stream"):
                await self._stream(call)
            else:
                text = _text(call.body)
                self._fail_if_asked(text)
                await asyncio.sleep(self._wait_for_first(text))
                if text.cues.stall is not None:
                    await asyncio.Event().wait()
                self._send(200, to_body(_job(call), text))
        except JanError as error:
            self._send_failure(
                Fail(error.http_status, _envelope(error.message, error.wire_code, error.param))
            )

    def _wait_for_first(self, text: Text) -> float:
        ttft = text.cues.ttft
        return self._upstream.ttft if ttft is None else ttft / 1000

    async def _stream(self, call: Call, stop: int | None = None) -> None:
        """Send a stream's head and its steps, on schedule; all, or up to `stop` of them."""
        text = _text(call.body)
        self._fail_if_asked(text)
        cues, up = text.cues, self._upstream
        pace = up.pace if cues.pace is None else cues.pace / 1000
        begin = time.monotonic() + self._wait_for_first(text)
        self._send_head(200, "text/event-stream")
        for position, chunks in enumerate(to_steps(_job(call), text)):
            if position == stop:
                return
            if position == cues.die:
                await self._cut()
            if position == cues.stall:
                await asyncio.Event().wait()
            if cues.fail and position == cues.fail[1]:
                self._send_chunk(b"data: %b\n\n" % _envelope("it broke").encode())
                break
            await asyncio.sleep(max(0.0, begin + position * pace - time.monotonic()))
            await self._writable.wait()
            for chunk in chunks:
                self._send_chunk(b"data: %b\n\n" % chunk)
                call.chunks += 1
        else:
            if stop is not None:
                return
            self._send_chunk(b"data: [DONE]\n\n")
        self.transport.write(b"0\r\n\r\n")

    def _fail_if_asked(self, text: Text) -> None:
        if text.cues.fail and text.cues.fail[1] == 0:
            raise JanError("it broke", status=text.cues.fail[0])

    async def _send_pieces(self, part: Body) -> None:
        self._send_head(part.status, part.content_type, part.headers)
        for piece in part.pieces:
            if piece:
                self._send_chunk(piece)
                await asyncio.sleep(0)
        if part.end == "proper":
            self.transport.write(b"0\r\n\r\n")
        elif part.end == "cut":
            await self._cut()
        else:
            await asyncio.Event().wait()

    async def _cut(self) -> None:
        if self._call is not None:
            self._call.ended_at = time.time()
        self.transport.close()  # what was written is still sent
        await asyncio.Event().wait()

    def _send_head(
        self, status: int, content_type: str, headers: dict[str, str] | None = None
    ) -> None:
        self.transport.write(
            b"HTTP/1.1 %d X\r\nContent-Type: %b\r\n%bTransfer-Encoding: chunked\r\n\r\n"
            % (status, content_type.encode(), _lines(headers))
        )

    def _send_chunk(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _send_failure(self, part: Fail) -> None:
        body = part.body if part.body is not None else _envelope("it broke")
        self._send(part.status, body.encode(), part.headers)

    def _send_json(self, status: int, value: Any) -> None:
        self._send(status, _encode(value))

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.transport.write(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
            % (status, _lines(headers), len(body), body)
        )


def _lines(headers: dict[str, str] | None) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items()).encode()


def _envelope(message: str, code: str | None = None, param: str | None = None) -> str:
    error = {"message": message, "type": "server_error", "param": param, "code": code}
    return _encode({"error": error}).decode()


def _fields(body: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(_encode(value)) for name, value in body.items()}


def _text(body: dict[str, Any]) -> Text:
    answer = answer_chat if "messages" in body else answer_completion
    return answer(_fields(body), 0, None, True)


def _job(call: Call) -> Generation:
    """The call as a job of the simulated model, under ids that an upstream would have."""
    chat = "messages" in call.body
    options = call.body.get("stream_options") or {}
    return Generation(
        run_id="",
        public_id=f"{'chatcmpl' if chat else 'cmpl'}-upstream{call.number}",
        kind="chat" if chat else "completion",
        model=str(call.body["model"]),
        served_name="",
        created=1_700_000_000,
        body={},
        stream=bool(call.body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        deadline=0.0,
    )


@contextlib.asynccontextmanager
async def open_upstream(
    *,
    ttft_ms: float = 0.0,
    token_ms: float = 0.0,
    port: int = 0,
    speaking: type[_Connection] = _Connection,
) -> AsyncIterator[Upstream]:
    """Serve an upstream in this process, on a free port."""
    upstream = Upstream(ttft_ms, token_ms)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: speaking(upstream), "127.0.0.1", port)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for connection in list(upstream.connections):
            connection.transport.abort()
        await server.wait_closed()


def run(description: str | None, speaking: type[_Connection] = _Connection) -> None:
    """Serve one as a process, which prints its port, until it is told to end."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ttft-ms", type=float, default=0.0)
    parser.add_argument("--token-ms", type=float, default=0.0)
    parser.add_argument("--model", action="append", help="a model id to list; may be repeated")
    asyncio.run(_serve(parser.parse_args(), speaking))


async def _serve(arguments: argparse.Namespace, speaking: type[_Connection]) -> None:
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    async with open_upstream(
        ttft_ms=arguments.ttft_ms,
        token_ms=arguments.token_ms,
        port=arguments.port,
        speaking=speaking,
    ) as upstream:
        upstream.models = arguments.model or upstream.models
        print(_encode({"port": upstream.port}).decode(), flush=True)
        await stopped.wait()


if __name__ == "__main__":
    run(__doc__)
