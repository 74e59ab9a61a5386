"""The process: a socket, uvicorn on it, signals, and a stop in order."""

import asyncio
import gc
import socket
from asyncio import TimerHandle
from collections.abc import Callable
from types import FrameType
from typing import Final, cast

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edge.app import create_app
from edge.settings import EdgeSettings
from edge.state import EdgeState
from schemas import ids
from schemas.errors import InvalidRequest, Unavailable

logger = structlog.get_logger()

_MAX_HEAD: Final = 64 * 1024  # bytes of request line and headers; tokens and cookies need a few KiB
_MAX_HEADERS: Final = 128
_HEAD_TIME: Final = 10.0  # seconds in which a request's head must have come
_BODY_PAUSE: Final = 60.0  # seconds without a byte of a body that is not complete
_LINGER: Final = 1.0  # seconds that a refused client may go on sending before it is cut off
_KEEP_ALIVE: Final = 75.0  # longer than clients keep idle connections, so that they close first
_CLOSE_TIME: Final = 1.0  # seconds for what is still open after the drain


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with bounds: on the head's size, and on waiting for a request.

    llhttp has no such bounds: a header without an end would be kept in memory for ever.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection: its first request is waited for like any other."""
        self._head_size = 0
        self._mixed = False  # the bytes at hand are not of one unfinished head only
        self._in_head = True
        self._in_message = False
        self._refused = False
        self._stall: TimerHandle | None = None
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            _KEEP_ALIVE, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection, and with it the wait for its request."""
        self._stop_waiting()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Parse what came; what a refused client still sends is dropped."""
        if self._refused:
            return
        self._mixed = False
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        if self._in_message and self._in_head and not self._mixed:
            self._head_size += len(data)
            if self._head_size > _MAX_HEAD:
                self.send_400_response("the request's head is too large")
                return
        self._wait_for_more()

    def on_message_begin(self) -> None:
        """Note that a request has begun."""
        self._in_message = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is too large."""
        self._in_head = False
        self._mixed = True
        self._head_size = 0
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > _MAX_HEAD or len(self.headers) > _MAX_HEADERS:
            self._head_size = _MAX_HEAD + 1
            raise ValueError("the request's head is too large")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the request is complete; another may follow on the connection."""
        self._in_head = True
        self._in_message = False
        self._mixed = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's words)
        """Refuse what is no HTTP, or too much of it, in the one envelope; then hang up.

        The client may still be sending: closing at once would reset the connection, and the
        answer with it.
        """
        self._refused = True
        self._stop_waiting()
        if self.cycle is not None and not self.cycle.response_complete:
            # An earlier request is being answered: nothing can be said in between.
            self.transport.close()
            return
        too_large = self._head_size > _MAX_HEAD
        error = InvalidRequest(
            "the request's head is too large" if too_large else "this is not HTTP as it should be",
            code="head_too_large" if too_large else "invalid_http",
            status=431 if too_large else 400,
        )
        request_id = ids.new_id("req_")
        body = error.to_wire(request_id)
        phrase = b"Request Header Fields Too Large" if too_large else b"Bad Request"
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"x-request-id: %b\r\nconnection: close\r\n\r\n%b"
            % (error.http_status, phrase, len(body), request_id.encode(), body)
        )
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stall = self.loop.call_later(_LINGER, self.transport.close)

    def _wait_for_more(self) -> None:
        """Have a timer run while a request is incomplete; a head's is not started again."""
        if not self._in_message:
            self._stop_waiting()
        elif self._in_head:
            if self._stall is None:
                self._stall = self.loop.call_later(_HEAD_TIME, self.transport.close)
        else:
            self._stop_waiting()
            self._stall = self.loop.call_later(_BODY_PAUSE, self._on_pause)

    def _on_pause(self) -> None:
        """Hang up on a client that has stopped sending, unless it was us who stopped reading."""
        if self.flow.read_paused:
            self._stall = self.loop.call_later(_BODY_PAUSE, self._on_pause)
        else:
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


class _Server(uvicorn.Server):
    """uvicorn's server with a drain before its shutdown. A second signal ends it at once."""

    def __init__(
        self, config: uvicorn.Config, drain_timeout: float, on_ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._drain_timeout = drain_timeout
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, or raise: uvicorn would end the process with a code of its own."""
        try:
            await super().startup(sockets)
        except SystemExit:
            raise Unavailable("the edge could not start") from None
        # What was made until now stays: looking through it in each collection would delay tokens.
        gc.collect()
        gc.freeze()
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody new, let streams end or go elsewhere, then close."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        state = cast(EdgeState, self.lifespan.state)
        state["presence"].draining = True
        draining = asyncio.gather(
            state["presence"].announce(), state["runs"].drain(self._drain_timeout)
        )
        while not draining.done() and not self.force_exit:
            await asyncio.wait([draining], timeout=0.1)
        draining.cancel()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop in order at the first signal, at once at the second."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


async def serve(settings: EdgeSettings, *, on_ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT, or until cancelled, then drain. `on_ready` is told the port.

    Raises OSError if the address can't be had, Unavailable if the edge can't start.
    """
    with open_socket(settings.host, settings.port) as listener:
        port: int = listener.getsockname()[1]
        config = uvicorn.Config(
            create_app(settings, port=lambda: port),
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.forwarded_allow_ips),
            forwarded_allow_ips=settings.forwarded_allow_ips or None,
            timeout_keep_alive=int(_KEEP_ALIVE),
            timeout_graceful_shutdown=int(_CLOSE_TIME),
            backlog=2048,
        )
        server = _Server(config, settings.drain_timeout, lambda: on_ready(port))
        try:
            await server.serve([listener])
        except asyncio.CancelledError:
            if server.started:
                await server.shutdown([listener])
            raise


def open_socket(host: str, port: int) -> socket.socket:
    """Bind and listen, so that the port is known, and held, before anything else starts."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
