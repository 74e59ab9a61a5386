"""The hot path of the one NATS connection: a reader and a writer under nats-py's client.

nats-py keeps what is slow and hard: connecting, authentication, TLS, reconnecting, replaying
subscriptions. Its parser takes 19 us for a message with headers and a task per subscription; this
one takes about 2 us and calls a function. Both speak the same protocol on the same socket.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

if TYPE_CHECKING:
    from nats.aio.client import Client

logger = structlog.get_logger()

CRLF = b"\r\n"
_HMSG = ord("H")
_WINDOW = 0.002  # seconds: under load, what is written leaves together, once a window …
_FREE_FLUSHES = 4  # … but a few writes a window leave at once: a lone request never waits


class Message:
    """A received message. `headers` is the raw block, parsed only where a value is asked for."""

    __slots__ = ("data", "headers", "reply", "subject")

    def __init__(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        self.subject = subject
        self.reply = reply
        self.headers = headers
        self.data = data

    def header(self, name: bytes) -> bytes | None:
        """Read one header's value; None if it is absent."""
        return header_value(self.headers, name)

    @property
    def status(self) -> int:
        """The status of a server's message without a body (404, 408, …); 0 for a real one."""
        head = self.headers[8:12]  # `NATS/1.0` and then ` 503` or a line's end
        return int(head) if head[:1] == b" " and head[1:4].isdigit() else 0


def header_value(headers: bytes, name: bytes) -> bytes | None:
    """Find a header's value in a raw block."""
    start = headers.find(CRLF + name + b": ")
    if start < 0:
        return None
    start += len(name) + 4
    return headers[start : headers.index(CRLF, start)]


OnMessage = Callable[[Message], None]


class FastReader(Parser):
    """nats-py's parser, replaced: subscriptions in `handlers` are called straight from the read.

    A handler must not raise or block; what it raises is logged and the reading goes on.
    """

    def __init__(self, nc: "Client") -> None:
        self.handlers: dict[bytes, OnMessage] = {}
        super().__init__(nc)

    def reset(self) -> None:
        """Forget a half-received message: the connection is a new one."""
        super().reset()
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take what the socket gave; complete messages are handled, the rest is kept."""
        self._pieces.append(data)
        self._have += len(data)
        if self._have < self._need:
            return  # a large message is joined once, not once a read
        buffer = data if len(self._pieces) == 1 else b"".join(self._pieces)
        consumed = await self._consume(buffer)
        rest = buffer[consumed:]
        self._pieces = [rest] if rest else []
        self._have = len(rest)

    async def _consume(self, buffer: bytes) -> int:
        """Handle every complete message in `buffer`; return how many bytes they were."""
        position = 0
        end = len(buffer)
        self._need = 0
        while position < end:
            line_end = buffer.find(CRLF, position)
            if line_end < 0:
                break
            first = buffer[position]
            if first in b"MH":  # MSG or HMSG
                args = buffer[position:line_end].split(b" ")
                start = line_end + 2
                stop = start + int(args[-1])
                if stop + 2 > end:
                    self._need = stop + 2 - position
                    break
                body = start + int(args[-2]) if first == _HMSG else start
                reply = args[3] if len(args) == (6 if first == _HMSG else 5) else b""
                handler = self.handlers.get(args[2])
                if handler is None:
                    await self.nc._process_msg(
                        int(args[2]), args[1], reply, buffer[body:stop], buffer[start:body] or None
                    )
                else:
                    message = Message(args[1], reply, buffer[start:body], buffer[body:stop])
                    self._handle(handler, message)
                position = stop + 2
            else:
                await self._control(buffer[position:line_end])
                position = line_end + 2
        return position

    def _handle(self, handler: OnMessage, message: Message) -> None:
        try:
            handler(message)
        except Exception:  # the reader serves every subscription: one's fault must not end it
            logger.exception("message handler failed", subject=message.subject.decode())

    async def _control(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"PING":
            await self.nc._process_ping()
        elif verb == b"PONG":
            await self.nc._process_pong()
        elif verb == b"-ERR":
            await self.nc._process_err(line[4:].strip().decode().lower())
        elif verb == b"INFO":
            await self.nc._process_info(msgspec.json.decode(line[5:]))
        elif verb[:3] != b"+OK":
            raise ProtocolError


class Writer:
    """Collects what is published and writes it to nats-py's socket, once for many messages.

    A patient one writes a turn of the loop later, with what is published until then: a system call
    and a wake-up less for each that is joined, 20 us more for a lone one.
    """

    def __init__(self, nc: "Client", *, patient: bool = False) -> None:
        self._nc = nc
        self._patient = patient
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes] = []
        self._scheduled = False
        self._window_ends = 0.0
        self._flushes = 0

    def write(self, *parts: bytes) -> None:
        """Write a whole protocol message soon. What is written while disconnected is dropped."""
        self._pending += parts
        if self._scheduled:
            return
        self._scheduled = True
        now = self._loop.time()
        if now >= self._window_ends:
            self._window_ends = now + _WINDOW
            self._flushes = 0
        self._flushes += 1
        if self._flushes <= _FREE_FLUSHES:
            self._loop.call_soon(self._flush_soon if self._patient else self.flush)
        else:
            self._loop.call_at(self._window_ends, self.flush)

    def flush(self) -> None:
        """Hand everything to the socket now.

        What nats-py still holds back goes first: a request must not overtake the subscription that
        its answer comes in by.
        """
        self._scheduled = False
        data = b"".join(self._pending)
        self._pending.clear()
        nc = self._nc
        transport: Any = nc._transport
        if transport is None or not nc.is_connected:
            return
        if nc._pending:
            held, nc._pending, nc._pending_data_size = nc._pending, [], 0
            transport.writelines(held)
        if data:
            transport.write(data)

    def _flush_soon(self) -> None:
        self._loop.call_soon(self.flush)

    def drop(self) -> None:
        """Forget what was not written: the connection it was meant for is gone."""
        self._pending.clear()
