"""An HTTP/1.1 client for the token path: bytes go from the socket straight to a callback.

Why not a library: a request through httpx costs about 500 us of CPU and a streamed chunk 20-40 us
(h11 in Python, an async generator at each of four layers), more than all the rest of a worker.
Here a request costs about 50 us and a chunk what httptools' C parser takes. It does only what an
engine needs: POST and GET, one origin, responses read once, no redirects, no content codings.

Faults are told as UpstreamError and UpstreamTimeout; their text never holds a header of ours.
"""

import asyncio
import select
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from schemas.errors import JanError, UpstreamError, UpstreamTimeout

Headers = dict[bytes, bytes]

_OVERHEAD_LIMIT = 64 * 1024  # bytes in a row that are no body: head, chunk framing, trailers
_LINGER = 1.0  # seconds for a response to end after its reader had enough, to reuse the connection
_NO_BODY = (204, 304)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a client, times in seconds.

    `idle` is under the 5 s after which common servers (uvicorn, Node) close a kept connection, so
    that a request rarely meets a closing one. `first_byte` counts to the first byte of the body.
    """

    connections: int = 4096
    connect: float = 5.0
    first_byte: float = 120.0
    between: float = 60.0
    idle: float = 4.0


class Receiver(Protocol):
    """Gets one response. It may raise a JanError to refuse it."""

    def on_head(self, status: int, headers: Headers) -> None:
        """Take the status and the headers, names in lower case."""

    def on_data(self, data: bytes) -> bool:
        """Take a piece of the body; True says that this was enough."""


class Client:
    """Connections to one origin, kept alive between requests."""

    def __init__(self, base_url: str, headers: Mapping[str, str], limits: Limits) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"base_url must be an http or https address, not {base_url!r}")
        self._host = url.hostname
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._port = url.port or (443 if self._tls else 80)
        self._path = url.path.rstrip("/")
        self._query = f"?{url.query}" if url.query else ""
        self._headers = _encode_headers({"Host": url.netloc.rpartition("@")[2], **headers})
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.connections)
        self._idle: deque[_Connection] = deque()  # the most recently used one last
        self._sweeper: asyncio.TimerHandle | None = None

    async def exchange(
        self,
        method: str,
        path: str,
        receiver: Receiver,
        *,
        body: bytes = b"",
        first_byte: float | None = None,
        seconds: float = 600.0,
        drain: Callable[[], Awaitable[None]] | None = None,
        crowded: Callable[[], bool] | None = None,
    ) -> None:
        """Send a request and feed its response to `receiver`; return when that is complete.

        Reading pauses when `crowded()` after a piece, until `drain()` has returned. Leaving early,
        by an error or by cancellation, closes the connection at once.
        """
        connection = await self._take()
        timing = _Timing(first_byte or self._limits.first_byte, self._limits.between, seconds)
        try:
            connection.start(self._encode(method, path, body), receiver, timing, crowded)
            while not await connection.turn():
                if drain is not None:
                    await drain()
                connection.resume()
        finally:
            connection.leave(self._keep)
            self._slots.release()

    async def close(self) -> None:
        """Close the idle connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        while self._idle:
            self._idle.pop().abort()

    def _encode(self, method: str, path: str, body: bytes) -> bytes:
        line = f"{method} {self._path}{path}{self._query} HTTP/1.1\r\n".encode("latin-1")
        if method == "GET":
            return b"%b%b\r\n" % (line, self._headers)
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (line, self._headers, len(body), body)

    async def _take(self) -> "_Connection":
        """Get a connection. Only here, with nothing sent, is a stale one replaced by another."""
        try:
            if self._slots.locked():
                async with asyncio.timeout(self._limits.connect):
                    await self._slots.acquire()
            else:
                await self._slots.acquire()
        except TimeoutError:
            raise UpstreamTimeout("no connection to the provider became free in time") from None
        try:
            oldest = asyncio.get_running_loop().time() - self._limits.idle
            while self._idle:
                connection = self._idle.pop()
                if connection.idle_since >= oldest and not connection.is_stale():
                    return connection
                connection.abort()
            return await self._connect()
        except BaseException:
            self._slots.release()
            raise

    async def _connect(self) -> "_Connection":
        try:
            async with asyncio.timeout(self._limits.connect):
                _, connection = await asyncio.get_running_loop().create_connection(
                    _Connection, self._host, self._port, ssl=self._tls
                )
                return connection
        except TimeoutError:
            raise UpstreamTimeout("connecting to the provider took too long") from None
        except ssl.SSLError as error:
            reason = error.reason or type(error).__name__
            raise UpstreamError(f"no trusted connection to the provider: {reason}") from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UpstreamError(f"the provider can't be reached: {reason}") from error

    def _keep(self, connection: "_Connection") -> None:
        self._idle.append(connection)
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(self._limits.idle, self._sweep)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._limits.idle
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.popleft().abort()
        self._sweeper = loop.call_later(self._limits.idle, self._sweep) if self._idle else None


@dataclass(slots=True)
class _Timing:
    first_byte: float
    between: float
    seconds: float


class _Connection(asyncio.Protocol):
    """A connection; the `on_…` methods are httptools' callbacks and only take notes."""

    idle_since = 0.0
    _transport: asyncio.Transport
    _poll: select.poll
    _parser: httptools.HttpResponseParser

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._keep: Callable[[_Connection], None] | None = None
        self._parts: list[bytes] = []
        self._headers: Headers = {}
        self._status = 0  # 0 until the head is complete
        self._head_told = self._enough = self._complete = self._unasked = False
        self._closed = self._paused = False

    # What the client does.

    def start(
        self,
        request: bytes,
        receiver: Receiver,
        timing: _Timing,
        crowded: Callable[[], bool] | None,
    ) -> None:
        """Send a request."""
        self._receiver = receiver
        self._timing = timing
        self._crowded = crowded
        self._parser = httptools.HttpResponseParser(self)
        self._headers = {}
        self._status = 0
        self._overhead = 0
        self._got_data = False
        self._head_told = self._enough = self._complete = self._paused = False
        self._keeps = self._unasked = False
        self._last = now = self._loop.time()
        self._due = now + timing.seconds
        self._timer = self._loop.call_at(min(now + timing.first_byte, self._due), self._on_timer)
        self._transport.write(request)

    async def turn(self) -> bool:
        """Wait for the response's end (True), or for a pause because the reader is crowded."""
        if not (self._complete or self._enough or self._paused or self._error):
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        return self._complete or self._enough

    def resume(self) -> None:
        """Go on reading after a pause."""
        self._paused = False
        self._last = self._loop.time()
        if not self._closed:
            self._transport.resume_reading()

    def leave(self, keep: Callable[["_Connection"], None]) -> None:
        """End the exchange: `keep` the connection if it can be used again, else close it."""
        self._receiver = self._waiter = None
        if self._timer is not None:
            self._timer.cancel()
        if self._error is not None or self._closed or self._paused:
            self.abort()
        elif self._complete:
            self._retire(keep)
        elif self._enough:
            self._keep = keep
            self._timer = self._loop.call_later(_LINGER, self.abort)
        else:
            self.abort()

    def is_stale(self) -> bool:
        """Tell whether the other side closed, or sent something unasked, since the last use."""
        # The loop may not yet have seen what the kernel has.
        return self._closed or self._transport.is_closing() or bool(self._poll.poll(0))

    def abort(self) -> None:
        """Close at once, whatever is still to be sent or read."""
        if not self._closed:
            self._transport.abort()

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass of it
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._receiver is None and self._keep is None:
            self.abort()  # nobody asked
            return
        self._last = self._loop.time()
        self._overhead += len(data)
        fault = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            fault = UpstreamError("the provider's answer is not valid HTTP")
        if self._parts:
            self._overhead = 0
        if self._receiver is not None:
            self._deliver(self._receiver)
        self._parts.clear()
        if fault is None and self._overhead > _OVERHEAD_LIMIT:
            fault = UpstreamError("the provider's response headers are too large")
        if fault is not None:
            self._fail(fault)
        elif self._complete:
            self._wake()
            if self._keep is not None:
                self._retire(self._keep)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        if self._receiver is None:
            if self._timer is not None:
                self._timer.cancel()
            return
        if exc is not None and not isinstance(exc, OSError):
            self._fail(exc)  # raised by the receiver: the transport closes on it
        elif exc is None and self._status and self._ends_with_connection():
            self._complete = True
            self._wake()
        elif not self._complete:
            self._fail(UpstreamError("the provider closed the connection before its answer ended"))

    # What the parser finds.

    def on_message_begin(self) -> None:
        self._unasked = self._complete  # an answer after the answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._complete:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and not self._complete:
            self._status = status

    def on_body(self, data: bytes) -> None:
        if not self._complete:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._status:
            self._keeps = not self._complete and self._parser.should_keep_alive()
            self._complete = True
        else:  # 1xx: the answer is still to come
            self._headers = {}

    # The rest.

    def _deliver(self, receiver: Receiver) -> None:
        """Hand on all that one read of the socket brought, in one piece."""
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            if self._status and not self._head_told:
                self._head_told = True
                receiver.on_head(self._status, self._headers)
            if data and not self._enough:
                self._got_data = True
                self._enough = receiver.on_data(data)
        except JanError as error:
            self._fail(error)
            return
        if self._enough:
            self._wake()
        elif data and not self._complete and self._crowded is not None and self._crowded():
            self._paused = True
            self._transport.pause_reading()
            self._wake()

    def _on_timer(self) -> None:
        """Look whether time ran out; set once per exchange and moved here, not at each byte."""
        now = self._loop.time()
        patience = self._timing.between if self._got_data else self._timing.first_byte
        due = now + patience if self._paused else self._last + patience
        if not self._got_data:
            due = self._due - self._timing.seconds + patience  # since the request
        if now >= self._due:
            self._fail(UpstreamTimeout("the provider's answer took longer than the run may"))
        elif now >= due:
            what = "went silent in its answer" if self._got_data else "did not begin to answer"
            self._fail(UpstreamTimeout(f"the provider {what} within {patience:g} s"))
        else:
            self._timer = self._loop.call_at(min(due, self._due), self._on_timer)

    def _fail(self, error: BaseException) -> None:
        if self._error is None and not self._complete and not self._enough:
            self._error = error
        self.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _retire(self, keep: Callable[["_Connection"], None]) -> None:
        self._keep = None
        if self._timer is not None:
            self._timer.cancel()
        if not self._keeps or self._unasked or self._transport.is_closing():
            self.abort()
            return
        self.idle_since = self._loop.time()
        keep(self)

    def _ends_with_connection(self) -> bool:
        return (
            b"content-length" not in self._headers
            and b"transfer-encoding" not in self._headers
            and self._status not in _NO_BODY
        )


def _encode_headers(headers: Mapping[str, str]) -> bytes:
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    for name, line in zip(headers, lines, strict=True):
        if not line[:-2].isprintable() or not line.isascii():
            # The value may be a secret: it is not shown.
            raise ValueError(f"the header {name!r} of the provider has characters it can't have")
    return "".join(lines).encode("ascii")
