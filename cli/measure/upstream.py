"""A fast OpenAI-compatible upstream, so that what is measured is the server and not the model.

Every token carries its index and the time that it was due (microseconds of the machine's monotonic
clock): `17@81234567 `. Who reads the stream can so count what is lost, doubled or late.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from typing import cast

import msgspec
import uvloop

FAST = "bench-fast"  # as fast as it can be written
PACED = "bench-paced"  # 50 tokens a second
TOKENS = 128
INTERVAL = 0.02

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_USAGE = b'"usage":{"prompt_tokens":24,"completion_tokens":%d,"total_tokens":%d}'
_END_OF_BODY = b"0\r\n\r\n"


class Options(msgspec.Struct):
    """`stream_options` of a request."""

    include_usage: bool = False


class Request(msgspec.Struct):
    """What the upstream reads of a request."""

    model: str = FAST
    stream: bool = False
    max_tokens: int = TOKENS
    stream_options: Options | None = None


_decode = msgspec.json.Decoder(Request).decode


class Stream:
    """One streamed answer: writes a token, then waits for the loop's next turn or for its time."""

    def __init__(self, transport: asyncio.Transport, request: Request, number: int) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._head = (
            b'{"id":"chatcmpl-bench%d","object":"chat.completion.chunk","created":%d,"model":"%b",'
            b'"system_fingerprint":"bench","choices":['
            % (number, int(time.time()), request.model.encode())
        )
        self._count = request.max_tokens
        self._usage = request.stream_options is not None and request.stream_options.include_usage
        self._paced = request.model == PACED
        self._start = self._loop.time()
        self._next = 0
        self._waiting = False
        self.on_end: Callable[[], None] | None = None

    def go(self) -> None:
        """Write the next token, or the end."""
        self._waiting = False
        if self._transport.is_closing():
            return
        index = self._next
        if index == self._count:
            self._end()
            return
        due = self._start + index * INTERVAL if self._paced else self._loop.time()
        role = b'"role":"assistant",' if index == 0 else b""
        self._send(
            b'%b{"index":0,"delta":{%b"content":"%d@%d "},"logprobs":null,"finish_reason":null}]}'
            % (self._head, role, index, due * 1e6)
        )
        self._next += 1
        if self._paced and self._next < self._count:
            self._loop.call_at(self._start + self._next * INTERVAL, self.go)
        else:
            self.resume()

    def pause(self) -> None:
        """The reader is slow: wait until it has caught up."""
        self._waiting = not self._paced

    def resume(self) -> None:
        """Go on at the loop's next turn, so that all streams advance together."""
        if not self._waiting:
            self._loop.call_soon(self.go)

    def caught_up(self) -> None:
        """The slow reader has caught up."""
        if self._waiting:
            self._waiting = False
            self._loop.call_soon(self.go)

    def _send(self, chunk: bytes) -> None:
        self._transport.write(b"%x\r\ndata: %b\n\n\r\n" % (len(chunk) + 8, chunk))

    def _end(self) -> None:
        self._send(self._head + b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}')
        if self._usage:
            usage = _USAGE % (self._count, self._count + 24)
            self._send(self._head + b"]," + usage + b"}")
        self._transport.write(b"e\r\ndata: [DONE]\n\n\r\n" + _END_OF_BODY)
        if self.on_end is not None:
            self.on_end()


class Connection(asyncio.Protocol):
    """One client's connection: answers its requests one after the other."""

    def __init__(self, numbers: "Numbers") -> None:
        self._numbers = numbers
        self._buffer = b""
        self._stream: Stream | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """Stop what was being sent."""
        self._stream = None

    def pause_writing(self) -> None:
        """Stop sending tokens."""
        if self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        """Send on."""
        if self._stream is not None:
            self._stream.caught_up()

    def data_received(self, data: bytes) -> None:
        """Take the requests that are complete."""
        self._buffer += data
        while self._stream is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        if not body:
            self._send_json(_models())
            return
        request = _decode(body)
        number = self._numbers.take()
        if not request.stream:
            self._send_json(_completion(request, number))
            return
        self._stream = Stream(self._transport, request, number)
        self._stream.on_end = self._next_request
        self._transport.write(_STREAM_HEAD)
        self._stream.go()

    def _next_request(self) -> None:
        self._stream = None
        if self._buffer:
            self.data_received(b"")

    def _send_json(self, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )


class Numbers:
    """Counts the requests."""

    def __init__(self) -> None:
        self._last = 0

    def take(self) -> int:
        """The next number."""
        self._last += 1
        return self._last


def _models() -> bytes:
    models = [{"id": name, "object": "model", "owned_by": "bench"} for name in (FAST, PACED)]
    return msgspec.json.encode({"object": "list", "data": models})


def _completion(request: Request, number: int) -> bytes:
    return (
        b'{"id":"chatcmpl-bench%d","object":"chat.completion","created":%d,"model":"%b",'
        b'"system_fingerprint":"bench","choices":[{"index":0,"message":{"role":"assistant",'
        b'"content":"The answer, all at once, in a sentence of some length.","refusal":null},'
        b'"logprobs":null,"finish_reason":"stop"}],%b}'
        % (number, int(time.time()), request.model.encode(), _USAGE % (12, 36))
    )


async def serve() -> None:
    """Listen on a free port, print it, and serve until the standard input closes."""
    loop = asyncio.get_running_loop()
    numbers = Numbers()
    server = await loop.create_server(lambda: Connection(numbers), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve())
