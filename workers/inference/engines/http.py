"""An HTTP/1.1 client for the token path: bytes go from the socket straight to a callback.

Why not a library: a request through httpx costs about 500 us of CPU and a streamed chunk 20-40 us
(h11 in Python, an async generator at each of four layers), more than all the rest of a worker.
Here a request costs about 50 us and a chunk what httptools' C parser takes. It does only what an
engine needs: POST and GET, one origin, through a proxy or not, responses read once, gzip and
deflate undone, no redirects.

Faults are told as UpstreamError and UpstreamTimeout; their text never holds a header of ours.
"""

import asyncio
import math
import select
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import SplitResult

import httptools

from schemas.errors import JanError, UpstreamError, UpstreamTimeout
from workers.inference.engines.dial import (
    Proxy,
    basic,
    dial,
    find_proxy,
    find_secrets,
    split_url,
    tunnel,
)
from workers.inference.engines.inflate import Discard, Inflater, to_inflater

Headers = dict[bytes, bytes]

_OVERHEAD_LIMIT = 64 * 1024  # bytes in a row that are no body: head, chunk framing, trailers
_LINGER = 1.0  # seconds for a response to end after its reader had enough, to reuse the connection
_NO_BODY = (204, 304)
_RACE = 0.5  # seconds in which a kept connection shows that it had been closed before we used it


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a client, times in seconds.

    `idle` is under the 5 s after which common servers (uvicorn, Node) close a kept connection, so
    that a request rarely meets a closing one. `first_byte` counts to the first byte of the body,
    `first_token` to the first that the caller calls progress, `between` from byte to byte.
    """

    connections: int = 4096
    connect: float = 5.0
    first_byte: float = 120.0
    first_token: float = 300.0
    between: float = 60.0
    idle: float = 4.0


class Receiver(Protocol):
    """Gets one response. It may raise a JanError to refuse it."""

    def on_head(self, status: int, headers: Headers) -> None:
        """Take the status and the headers, names in lower case."""

    def on_data(self, data: bytes) -> bool:
        """Take a piece of the body; True says that this was enough."""


class Client:
    """Connections to one origin, kept alive between requests.

    `proxy` is `none`, `env` (see `find_proxy`) or a URL; `ca_file` has the only authorities that
    are trusted, instead of the system's. `unix`: the socket to connect to instead of the host.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        limits: Limits,
        *,
        proxy: str = "env",
        ca_file: str | None = None,
        unix: str | None = None,
    ) -> None:
        self._unix = unix
        try:
            url, port = split_url(base_url, "http", "https")
        except ValueError as error:
            raise ValueError(f"base_url: {error}") from None
        assert url.hostname is not None
        self._host = url.hostname
        self._secure = url.scheme == "https"
        self._port = port or (443 if self._secure else 80)
        self._limits = limits
        self._fault = ""  # why nothing can be sent at all
        self._tls = self._to_tls(ca_file) if self._secure else None
        self._proxy = self._to_proxy(proxy)
        # What addresses hold that no text may show: a Redactor wants it.
        self.secrets = [*find_secrets(base_url), *(self._proxy.secrets if self._proxy else ())]
        host = url.netloc.rpartition("@")[2]
        # A proxy takes the whole address, except for what goes through a tunnel.
        origin = f"http://{host}" if self._proxy and not self._secure else ""
        self._target = origin + url.path.rstrip("/")
        self._query = f"?{url.query}" if url.query else ""
        self._headers = _encode_headers(
            {"Host": host, **self._own_headers(url, headers), **headers}
        )
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
        begun: Callable[[], bool] | None = None,
    ) -> None:
        """Send a request and feed its response to `receiver`; return when that is complete.

        Reading pauses when `crowded()` after a piece, until `drain()` has returned. `begun()` tells
        whether what came was more than signs of life; without it the first byte is a beginning.
        Leaving early, by an error or by cancellation, closes the connection at once.
        """
        limits = self._limits
        request = _Request(
            self._encode(method, path, body),
            receiver,
            drain,
            crowded,
            begun,
            due=asyncio.get_running_loop().time() + seconds,
            first_byte=first_byte or limits.first_byte,
            first_token=limits.first_token if begun is not None else math.inf,
            between=limits.between,
        )
        await self._take_slot(request.due)
        try:
            kept = self._take_idle()
            if kept is not None:
                try:
                    await self._run(kept, request)
                    return
                except _ClosedBefore:
                    pass
            await self._run(await self._connect(request.due), request)
        finally:
            self._slots.release()

    async def _run(self, connection: "_Connection", request: "_Request") -> None:
        try:
            connection.start(request)
            while not await connection.turn():
                if request.drain is not None:
                    await request.drain()
                connection.resume()
        finally:
            connection.leave(self._keep)

    async def close(self) -> None:
        """Close the idle connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        while self._idle:
            self._idle.pop().abort()

    def _to_tls(self, ca_file: str | None) -> ssl.SSLContext | None:
        try:
            return ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # SSLError is one
            reason = error.strerror or type(error).__name__
            self._fault = f"the provider's ca_file can't be used: {reason}"
            return None

    def _to_proxy(self, setting: str) -> Proxy | None:
        try:
            return find_proxy(setting, "https" if self._secure else "http", self._host, self._port)
        except ValueError as error:
            self._fault = f"no proxy can be used: {error}"
            return None

    def _own_headers(self, url: SplitResult, headers: Mapping[str, str]) -> dict[str, str]:
        """What the addresses say about who we are, unless the caller says it."""
        names = {name.lower() for name in headers}
        own = {}
        if self._proxy and self._proxy.authorization and not self._secure:
            own["Proxy-Authorization"] = self._proxy.authorization
        if (url.username or url.password) and "authorization" not in names:
            own["Authorization"] = basic(url.username or "", url.password or "")
        return own

    def _encode(self, method: str, path: str, body: bytes) -> bytes:
        line = f"{method} {self._target}{path}{self._query} HTTP/1.1\r\n".encode("latin-1")
        if method == "GET":
            return b"%b%b\r\n" % (line, self._headers)
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (line, self._headers, len(body), body)

    def _until(self, due: float) -> asyncio.Timeout:
        """What is done before a request is sent has `connect` seconds, if the request has."""
        return asyncio.timeout_at(
            min(due, asyncio.get_running_loop().time() + self._limits.connect)
        )

    async def _take_slot(self, due: float) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # at once
            return
        try:
            async with self._until(due):
                await self._slots.acquire()
        except TimeoutError:
            raise UpstreamTimeout("no connection to the provider became free in time") from None

    def _take_idle(self) -> "_Connection | None":
        """Get a kept connection, one that is not known to be stale."""
        oldest = asyncio.get_running_loop().time() - self._limits.idle
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since >= oldest and not connection.is_stale():
                return connection
            connection.abort()
        return None

    async def _connect(self, due: float) -> "_Connection":
        if self._fault:
            raise UpstreamError(self._fault)
        try:
            async with self._until(due):
                return await self._open()
        except TimeoutError:
            raise UpstreamTimeout("connecting to the provider took too long") from None
        except ssl.SSLError as error:
            reason = error.reason or type(error).__name__
            raise UpstreamError(f"no trusted connection to the provider: {reason}") from error
        except (OSError, UnicodeError) as error:  # UnicodeError: no name that DNS can have
            reason = getattr(error, "strerror", None) or type(error).__name__
            what = "the provider's proxy" if self._proxy else "the provider"
            raise UpstreamError(f"{what} can't be reached: {reason}") from error

    async def _open(self) -> "_Connection":
        if self._unix is not None:
            loop = asyncio.get_running_loop()
            return (await loop.create_unix_connection(_Connection, self._unix))[1]
        to = self._proxy
        sock = await dial(to.host if to else self._host, to.port if to else self._port)
        try:
            if self._proxy and self._secure:
                await tunnel(sock, self._host, self._port, self._proxy.authorization)
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection,
                sock=sock,
                ssl=self._tls,
                server_hostname=self._host if self._tls else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection

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
class _Request:
    encoded: bytes
    receiver: Receiver
    drain: Callable[[], Awaitable[None]] | None
    crowded: Callable[[], bool] | None
    begun: Callable[[], bool] | None
    due: float  # when the answer must be complete, in the loop's time; the others are seconds
    first_byte: float
    first_token: float
    between: float


class _ClosedBefore(UpstreamError):
    """A kept connection was closed before the request can have been read.

    A POST may be repeated only if it is known not to have been acted on (RFC 9110 §9.2.2). A server
    that closed while the request was on its way shows that at once and without a byte of an answer;
    one that fell over its work shows it later, and is told as the fault that it is.
    """


class _Connection(asyncio.Protocol):
    """A connection; the `on_…` methods are httptools' callbacks and only take notes."""

    idle_since = 0.0
    _transport: asyncio.Transport
    _poll: select.poll
    _request: _Request
    _crowded: Callable[[], bool] | None
    _parser: httptools.HttpResponseParser

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._keep: Callable[[_Connection], None] | None = None
        self._parts: list[bytes] = []
        self._inflater: Inflater | None = None
        self._headers: Headers = {}
        self._status = 0  # 0 until the head is complete
        self._head_told = self._enough = self._complete = self._unasked = False
        self._closed = self._paused = False

    # What the client does.

    def start(self, request: _Request) -> None:
        """Send a request."""
        self._request = request
        self._receiver = request.receiver
        self._crowded = request.crowded
        self._inflater = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers = {}
        self._status = 0
        self._overhead = 0
        self._got_data = False
        self._head_told = self._enough = self._complete = self._paused = False
        self._keeps = self._unasked = False
        self._began = self._last = self._loop.time()
        patience = min(request.first_byte, request.first_token, request.between)
        self._timer = self._loop.call_at(min(self._began + patience, request.due), self._on_timer)
        self._transport.write(request.encoded)

    async def turn(self) -> bool:
        """Wait for the response's end (True), or for a pause because the reader is crowded."""
        if not (self._complete or self._enough or self._paused or self._error):
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        if not self._complete or self._enough or self._inflater is None:
            return self._complete or self._enough
        if not self._inflater.pending and not self._inflater.is_whole():
            raise UpstreamError("the provider's compressed answer was cut off")
        return not self._inflater.pending

    def resume(self) -> None:
        """Go on reading after a pause."""
        self._paused = False
        self._last = self._loop.time()
        if self._inflater is not None and self._inflater.pending and self._receiver is not None:
            self._deliver(self._receiver)  # what was inflated only in part may pause it again
        if not (self._paused or self._closed):
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
        if sock.family != socket.AF_UNIX:
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
            self._refuse(exc)  # raised by the receiver: the transport closes on it
        elif exc is None and self._status and self._ends_with_connection():
            self._complete = True
            self._wake()
        elif not self._complete:
            what = "the provider closed the connection before its answer ended"
            self._fail(_ClosedBefore(what) if self._closed_before() else UpstreamError(what))

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
                self._tell_head(receiver)
            if self._inflater is not None:
                self._inflate(receiver, self._inflater, data)
            elif data and not self._enough:
                self._got_data = True
                self._enough = receiver.on_data(data)
        except JanError as error:
            self._refuse(error)
            return
        if self._enough:
            self._wake()
        elif self._crowded is not None and self._crowded() and self._has_more(data):
            self._paused = True
            if not (self._closed or self._transport.is_closing()):
                self._transport.pause_reading()
            self._wake()

    def _tell_head(self, receiver: Receiver) -> None:
        headers = self._headers
        codings = headers.get(b"content-encoding")
        if codings is not None:
            try:
                self._inflater = to_inflater(codings)
            except UpstreamError:
                if self._status == 200:
                    raise
                self._inflater = Discard()  # the status says enough
            names = (b"content-encoding", b"content-length")  # of the body before it is inflated
            headers = {name: headers[name] for name in headers if name not in names}
        receiver.on_head(self._status, headers)

    def _inflate(self, receiver: Receiver, inflater: Inflater, data: bytes) -> None:
        """Hand on what a compressed piece makes, until there is no more or it is too much."""
        self._got_data = self._got_data or bool(data)
        while not self._enough:
            piece = inflater.feed(data)
            data = b""
            if piece:
                self._enough = receiver.on_data(piece)
            if not inflater.pending or (self._crowded is not None and self._crowded()):
                return

    def _has_more(self, data: bytes) -> bool:
        """Tell whether a pause would hold anything back."""
        if self._inflater is None:
            return bool(data) and not self._complete
        return self._inflater.pending or not self._complete

    def _on_timer(self) -> None:
        """Look whether time ran out; the timer moves only here, not at each byte."""
        now = self._loop.time()
        request = self._request
        if now >= request.due:
            self._fail(UpstreamTimeout("the provider's answer took longer than it may"))
        elif not self._got_data and now >= self._began + request.first_byte:
            self._time_out("did not begin to answer", request.first_byte)
        elif now >= self._began + request.first_token and not self._has_begun():
            self._time_out("sent nothing of its answer", request.first_token)
        elif self._got_data and not self._paused and now >= self._last + request.between:
            self._time_out("went silent in its answer", request.between)
        else:
            self._timer = self._loop.call_at(self._next_due(now), self._on_timer)

    def _next_due(self, now: float) -> float:
        """When time may run out next, if nothing comes until then.

        `now` is when it was looked at last: what became due since has not been seen.
        """
        request = self._request
        # Whatever comes first from now on gets its `between` in full: not before this.
        due = self._last + request.between if self._got_data and not self._paused else 0.0
        if due <= now:
            due = now + request.between
        dues = [
            due,
            request.due,
            self._began + request.first_byte,
            self._began + request.first_token,
        ]
        return min(due for due in dues if due > now) if request.due > now else now

    def _has_begun(self) -> bool:
        begun = self._request.begun
        return begun is None or begun()

    def _time_out(self, what: str, seconds: float) -> None:
        self._fail(UpstreamTimeout(f"the provider {what} within {seconds:g} s"))

    def _closed_before(self) -> bool:
        """Tell whether this was closed before the request, as far as can be known."""
        untouched = not (self._status or self._got_data or self._overhead)
        return self.idle_since > 0 and untouched and self._loop.time() - self._began < _RACE

    def _fail(self, error: BaseException) -> None:
        if self._error is None and not self._complete and not self._enough:
            self._error = error
        self.abort()
        self._wake()

    def _refuse(self, error: BaseException) -> None:
        """Fail for what the answer says, which counts also when all of it has come."""
        if self._error is None:
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
