"""HTTP/1.1 on a socket: uvicorn's protocol, with bounds on what a client may make the server keep.

llhttp and uvicorn have none: a header without an end would be kept in memory for ever, and so would
a connection whose client neither sends nor reads.
"""

import asyncio
from asyncio import TimerHandle
from typing import TYPE_CHECKING, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from schemas import ids
from schemas.errors import InvalidRequest

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope

KEEP_ALIVE: Final = 75.0  # seconds; longer than clients keep idle connections: they close first
_MAX_HEAD: Final = 64 * 1024  # bytes of request line and headers; tokens and cookies need a few KiB
_MAX_HEADERS: Final = 128
_HEAD_TIME: Final = 10.0  # seconds in which a request's head must have come
_BODY_PAUSE: Final = 60.0  # seconds without a byte of a body that is not complete
_READ_PAUSE: Final = 120.0  # seconds in which a client must take some of what waits for it
_LINGER: Final = 1.0  # seconds that a refused client may go on sending before it is cut off


class Protocol(HttpToolsProtocol):
    """One connection. An answer that its application leaves unfinished is cut off, quietly."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection: its first request is waited for like any other."""
        self._in_head = True
        self._in_message = False
        self._moved = False  # the bytes at hand brought a whole head, some body or a request's end
        self._kept = 0  # bytes of a request since it last moved: of a head, or of trailers
        self._refused = False
        self._answering: RequestResponseCycle | None = None
        self._stall: TimerHandle | None = None
        self._unread: TimerHandle | None = None
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            KEEP_ALIVE, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection, and with it the wait for its request and whoever answers one."""
        self._stop_waiting()
        self._stop_watching()
        if self._answering is not None and not self._answering.response_complete:
            # uvicorn tells the last request only, which may have to wait for this one's answer.
            _abandon(self._answering)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Parse what came; what a refused client still sends is dropped."""
        if self._refused:
            return
        self._moved = False
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._go_on(data[upgrade.args[0] :])
        except HttpParserError:
            self.send_400_response("this is not HTTP as it should be")
        if self._refused or self.transport.is_closing():
            return
        if self._in_message and not self._moved:
            self._kept += len(data)
            if self._kept > _MAX_HEAD:
                self.send_400_response("the request's head is too large")
                return
        self._wait_for_more()

    def on_message_begin(self) -> None:
        """Note that a request has begun."""
        self._in_message = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is too large or asks for another protocol."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > _MAX_HEAD or len(self.headers) > _MAX_HEADERS:
            self._kept = _MAX_HEAD + 1
            raise ValueError("the request's head is too large")
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("this is no proxy")
        if self.parser.should_upgrade():
            return
        self._in_head = False
        self._move()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keep some of the body until the application takes it."""
        self._move()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete; another may follow on the connection."""
        if self._in_head:
            return  # of another protocol, as the parser takes it
        self._in_head = True
        self._in_message = False
        self._move()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Wait for the client to read, but not for ever."""
        super().pause_writing()
        self._unread = self.loop.call_later(_READ_PAUSE, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        self._stop_watching()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's words)
        """Refuse what is no HTTP, or too much of it, in the one envelope; then hang up.

        The client may still be sending: closing at once would reset the connection, and the
        answer with it.
        """
        self._refused = True
        self._stop_waiting()
        if not self._is_next_to_speak():
            self.transport.close()
            return
        self.transport.write(self._refusal())
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stall = self.loop.call_later(_LINGER, self.transport.close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        async def answer(
            scope: "Scope", receive: "ASGIReceiveCallable", send: "ASGISendCallable"
        ) -> None:
            await app(scope, receive, send)
            if cycle.response_started and not cycle.response_complete:
                # Without its end, nobody takes half an answer for the whole.
                cycle.disconnected = True
                self.transport.close()

        if cycle.scope["method"] != "HEAD":  # whose answer is nothing but a head
            cycle.transport = _Joined(self.transport, self.loop)  # type: ignore[assignment]
        self._answering = cycle
        super()._start_asgi_task(cycle, answer)

    def _go_on(self, rest: bytes) -> None:
        """Serve a request that asks for another protocol in this one, as a server may.

        Java's client asks for HTTP/2 in every first request. The parser would skip its body.
        """
        if dict(self.headers).get(b"upgrade", b"").lower() == b"websocket":
            self._become_socket(rest)
            return
        kept = [b"%b: %b\r\n" % item for item in self.headers if item[0] != b"upgrade"]
        line = b"%b %b HTTP/%b\r\n" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        self.parser = HttpRequestParser(self)
        self.data_received(b"".join([line, *kept, b"\r\n", rest]))

    def _become_socket(self, rest: bytes) -> None:
        """Leave the connection to WebSockets' protocol."""
        self._stop_waiting()
        self._stop_watching()
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.handle_websocket_upgrade()
        successor = self.transport.get_protocol()
        if rest and isinstance(successor, asyncio.Protocol):
            successor.data_received(rest)

    def _is_next_to_speak(self) -> bool:
        """Whether an answer to the request at fault may be written now.

        A fault behind the head is that of a request whose answer may have begun; the application
        that reads its body is told that the client is gone.
        """
        waiting = self._answering
        if waiting is None or waiting.response_complete:
            # An answer that did not wait for the request's end was the only one.
            return self._in_head
        if self._in_head or self.pipeline or waiting.response_started:
            return False
        _abandon(waiting)
        return True

    def _refusal(self) -> bytes:
        too_large = self._kept > _MAX_HEAD
        error = InvalidRequest(
            "the request's head is too large" if too_large else "this is not HTTP as it should be",
            code="head_too_large" if too_large else "invalid_http",
            status=431 if too_large else 400,
        )
        request_id = ids.new_id("req_")
        body = error.to_wire(request_id)
        phrase = b"Request Header Fields Too Large" if too_large else b"Bad Request"
        return (
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"x-request-id: %b\r\nconnection: close\r\n\r\n%b"
            % (error.http_status, phrase, len(body), request_id.encode(), body)
        )

    def _move(self) -> None:
        self._moved = True
        self._kept = 0

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

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


class _Joined:
    """Where an answer is written: its head leaves in one piece with what follows it at once.

    Each write is a system call, and wakes the client up.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.is_closing = transport.is_closing
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Write, but the head only with what comes next, or at the end of the loop's turn."""
        if self._head is None:
            self._head = data
            self._loop.call_soon(self._release)
        elif self._head:
            head, self._head = self._head, b""
            self._transport.writelines([head, data])
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Hang up once everything is written."""
        self._release()
        self._transport.close()

    def _release(self) -> None:
        if self._head and not self.is_closing():
            self._transport.write(self._head)
        self._head = b""


def _abandon(cycle: RequestResponseCycle) -> None:
    """Tell the application that answers a request that its client is gone."""
    cycle.disconnected = True
    cycle.message_event.set()
