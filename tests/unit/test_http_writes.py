"""How many pieces an answer is sent in: each is a system call here, and wakes the client up."""

import asyncio
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from edge.protocol import Protocol


class Line(asyncio.Transport):
    """A transport that notes each piece that is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closed = asyncio.Event()

    def write(self, data: Any) -> None:
        self.pieces.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def close(self) -> None:
        self.closed.set()


async def answer_with(*bodies: bytes, method: bytes = b"GET", pause: bool = False) -> list[bytes]:
    """The pieces of an answer with these bodies; `pause`: they come a while after its head."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        head = [(b"content-length", b"%d" % sum(map(len, bodies)))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        if pause:
            await asyncio.sleep(0.01)
        for body in bodies:
            await send(
                {"type": "http.response.body", "body": body, "more_body": body is not bodies[-1]}
            )

    line = Line()
    _serve(app, line).data_received(method + b" / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    async with asyncio.timeout(5):
        await line.closed.wait()
    return line.pieces


def _serve(app: ASGIApp, line: Line) -> Protocol:
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    config.loaded_app = app
    protocol = Protocol(config, ServerState(), {})
    protocol.connection_made(line)
    return protocol


async def test_an_answer_leaves_in_one_piece() -> None:
    [piece] = await answer_with(b"the body")
    assert piece.startswith(b"HTTP/1.1 200 OK\r\n")
    assert piece.endswith(b"\r\n\r\nthe body")


async def test_what_comes_later_is_not_waited_for() -> None:
    head, body = await answer_with(b"the body", pause=True)
    assert head.endswith(b"\r\n\r\n")
    assert body == b"the body"


async def test_only_the_head_waits() -> None:
    first, second = await answer_with(b"one", b"two")
    assert first.endswith(b"\r\n\r\none")
    assert second == b"two"


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
async def test_an_answer_without_a_body_is_sent(method: bytes) -> None:
    [piece] = await answer_with(b"", method=method)
    assert piece.endswith(b"\r\n\r\n")
