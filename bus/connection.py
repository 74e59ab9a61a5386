"""The one NATS connection of a process: publish, store with an ack, ask, subscribe, direct get."""

import asyncio
import calendar
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.client import JetStreamContext

from bus.wire import CRLF, FastReader, Message, OnMessage, Writer
from schemas.errors import BusError, BusTimeout, BusUnavailable, NoResponders, WrongLastSequence

logger = structlog.get_logger()

WRONG_LAST_SEQUENCE = 10071
QUEUE_FULL = frozenset({10077, 10047})  # too many messages for the stream or for the subject
_SWEEP = 0.25  # seconds between looks for publishes whose ack is overdue
_TOO_LARGE = b"NATS/1.0 413 Too Large\r\n\r\n"  # our own answer: such a message is never sent
_BATCH = 256  # messages of one direct get
_BATCH_BYTES = 1 << 18  # of one direct get, one message more at most: who reads may hold no more


class Ack(msgspec.Struct, frozen=True):
    """The server stored a message: where, and whether it had it already."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False


class _ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _ApiError | None = None


class Stored(msgspec.Struct, frozen=True):
    """A message read back from a stream; `time` in unix seconds."""

    seq: int
    subject: str
    data: bytes
    headers: bytes
    time: float


OnAck = Callable[[Ack | BusError], None]
_OnReply = Callable[[Message | None], bool]  # None: no answer came; True: no more is expected
_decode_pub_ack = msgspec.json.Decoder(_PubAck).decode


class Subscription:
    """A live subscription; `unsubscribe` ends it."""

    def __init__(self, bus: "Bus", sid: bytes, inner: Any) -> None:
        self._bus = bus
        self._sid = sid
        self._inner = inner

    async def unsubscribe(self) -> None:
        """Stop receiving. Idempotent."""
        if self._bus.reader.handlers.pop(self._sid, None) and not self._bus.closed:
            with suppress(OSError):  # a server that is gone knows of no subscriptions
                await self._inner.unsubscribe()


class Bus:
    """Everything a process does with NATS, over one connection. Made by `open_bus` or `attach`."""

    def __init__(self, nc: Client, *, patient: bool = False) -> None:
        self.nc = nc
        self.js: JetStreamContext = nc.jetstream()
        self.reader = FastReader(nc)
        self._writer = Writer(nc, patient=patient)
        self._replies: dict[int, tuple[float, _OnReply]] = {}
        self._counter = 0
        self._inbox = b""
        self.connected_at = time.time()  # what was stored before may have been forgotten since
        self._on_reconnect: list[Callable[[], None]] = []
        self._on_disconnect: list[Callable[[], None]] = []
        self._on_closed: list[Callable[[BusUnavailable], None]] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._swept = self._loop.time()

    async def start(self) -> None:
        """Take over the connection's reading and open the reply inbox."""
        self.reader.buf = self.nc._ps.buf
        if self.nc._ps.buf:
            await self.reader.parse(bytes(self.nc._ps.buf))
        self.nc._ps = self.reader
        self._chain_callbacks()
        self._inbox = self.nc.new_inbox().encode() + b"."
        await self.subscribe(self._inbox.decode() + "*", self._on_reply)
        self._sweep()

    async def close(self) -> None:
        """Fail what still waits, send what was published, and close the connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._writer.flush()
        self._fail_replies()
        if not self.closed:
            await self.nc.close()

    @property
    def connected(self) -> bool:
        """Whether the server can be reached now."""
        return bool(self.nc.is_connected)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` each time the connection is up again; call the result to stop that."""
        self._on_reconnect.append(callback)
        return lambda: self._on_reconnect.remove(callback)

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time the connection is lost."""
        self._on_disconnect.append(callback)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended for good: nats-py does not connect again."""
        return bool(self.nc.is_closed)

    def on_closed(self, callback: Callable[[BusUnavailable], None]) -> Callable[[], None]:
        """Call `callback`, once, if the connection ends for good; call the result to stop that.

        nats-py ends it at every error that the server tells, but for a stale connection and what
        is not permitted. Who serves must start anew then: it hears nothing any more.
        """
        self._on_closed.append(callback)
        return lambda: self._on_closed.remove(callback)

    async def subscribe(self, subject: str, on_message: OnMessage, queue: str = "") -> Subscription:
        """Receive messages by a plain function, called from the read itself."""
        sid = str(self.nc._sid + 1).encode()
        self.reader.handlers[sid] = on_message
        inner = await self.nc.subscribe(subject, queue=queue)
        if str(inner._id).encode() != sid:
            raise RuntimeError("nats-py numbers its subscriptions in another way than expected")
        self._writer.flush()  # whatever is asked next, the server knows where its answer goes
        return Subscription(self, sid, inner)

    async def arrived(self, timeout: float) -> None:
        """Wait until the server has everything that was published so far. Raises BusTimeout."""
        self._writer.flush()
        if not self.connected:
            raise BusTimeout("the connection is lost")
        try:
            await self.nc.flush(timeout)  # type: ignore[arg-type]  # parts of a second too
        except (NatsError, OSError) as error:
            raise BusTimeout("the server does not answer") from error

    def publish(self, subject: str, data: bytes, reply: str = "", headers: bytes = b"") -> None:
        """Publish and forget. `headers` is a raw block, as made by `header_block`."""
        self._write(subject.encode(), reply.encode(), headers, data)

    def send_stored(
        self,
        subject: str,
        data: bytes,
        on_ack: OnAck,
        *,
        msg_id: str = "",
        expect_last: int | None = None,
        headers: bytes = b"",
        timeout: float = 5.0,
    ) -> None:
        """Publish to a stream; `on_ack` gets the Ack or the BusError, exactly once.

        `expect_last` is the sequence that the subject's last message must have (0: none);
        `headers` is more header lines, each closed by a line's end.
        BusTimeout says that the outcome is unknown: the connection broke or no answer came.
        """

        def on_reply(message: Message | None) -> bool:
            on_ack(_to_ack(message))
            return True

        if headers or msg_id or expect_last is not None:
            headers = header_block(headers, msg_id, expect_last)
        self._request(subject.encode(), data, headers, on_reply, timeout)

    async def store(
        self,
        subject: str,
        data: bytes,
        *,
        msg_id: str = "",
        expect_last: int | None = None,
        headers: bytes = b"",
        timeout: float = 5.0,
    ) -> Ack:
        """Publish to a stream and wait for the ack.

        With a `msg_id`, a lost connection is waited for and the message sent again: the server
        knows it by its id. Raises WrongLastSequence, BusTimeout (outcome unknown), BusError.
        """
        deadline = self._loop.time() + timeout
        while True:
            answer: asyncio.Future[Ack | BusError] = self._loop.create_future()

            def on_ack(ack: Ack | BusError, to: asyncio.Future[Ack | BusError] = answer) -> None:
                if not to.done():
                    to.set_result(ack)

            self.send_stored(
                subject,
                data,
                on_ack,
                msg_id=msg_id,
                expect_last=expect_last,
                headers=headers,
                timeout=max(0.0, deadline - self._loop.time()),
            )
            ack = await answer
            if isinstance(ack, Ack):
                return ack
            again = isinstance(ack, BusTimeout | NoResponders) and bool(msg_id)
            if not again or self._loop.time() >= deadline:
                raise ack
            await self._until_connected(deadline)
            await asyncio.sleep(0.05)  # a server that has just started may not lead its streams yet

    async def ask(self, subject: str, data: bytes, timeout: float = 2.0) -> bytes:
        """Ask and wait for the one answer. Raises NoResponders, BusTimeout."""
        return (await self.ask_message(subject, data, timeout)).data

    async def ask_message(self, subject: str, data: bytes, timeout: float = 2.0) -> Message:
        """Ask and wait for the one answer, headers and all."""
        answer: asyncio.Future[Message | None] = self._loop.create_future()

        def on_reply(message: Message | None) -> bool:
            if not answer.done():
                answer.set_result(message)
            return True

        self._request(subject.encode(), data, b"", on_reply, timeout)
        message = await answer
        if message is None:
            raise BusTimeout(f"no answer on {subject}")
        if message.status == 503:
            raise NoResponders(f"nobody answers on {subject}")
        if message.headers is _TOO_LARGE:
            raise BusError(f"a question of {len(data)} bytes is too large")
        return message

    def expect(self, on_reply: _OnReply, timeout: float) -> str:
        """Make a subject for answers that come later than an ack; they go to `on_reply`.

        It gets each message, until it returns True; None once `timeout` is over or the connection
        was lost.
        """
        self._counter += 1
        self._replies[self._counter] = (self._loop.time() + timeout, on_reply)
        return f"{self._inbox.decode()}{self._counter}"

    async def last_message(self, stream: str, subject: str) -> Stored | None:
        """Read the last message of a subject from its stream."""
        return await self._get(stream, {"last_by_subj": subject})

    async def message_at(self, stream: str, seq: int) -> Stored | None:
        """Read one message by its sequence; None if it is gone."""
        return await self._get(stream, {"seq": seq})

    async def _get(self, stream: str, query: dict[str, Any]) -> Stored | None:
        message = await self.ask_message(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(query))
        if message.status == 404:
            return None
        if message.status:
            raise BusError(f"direct get from {stream} answered {message.status}")
        return _to_stored(message)

    async def read_subject(
        self,
        stream: str,
        subject: str,
        start_seq: int = 1,
        *,
        start_time: str | None = None,
        timeout: float = 5.0,
    ) -> AsyncGenerator[Stored, None]:
        """Read a subject's messages from a sequence (or an RFC 3339 time) on, until caught up."""
        while True:
            pending = 0
            async for stored, left in self._read_batch(
                stream, subject, start_seq, start_time, timeout
            ):
                yield stored
                start_seq, pending = stored.seq + 1, left
            start_time = None
            if not pending:
                return

    async def _read_batch(
        self, stream: str, subject: str, seq: int, start_time: str | None, timeout: float
    ) -> AsyncIterator[tuple[Stored, int]]:
        """One direct get of up to 256 messages; yields each with how many more there are."""
        arrived: asyncio.Queue[Message | None] = asyncio.Queue()

        def on_reply(message: Message | None) -> bool:
            arrived.put_nowait(message)
            return message is None or message.status != 0

        query: dict[str, Any] = {"next_by_subj": subject}
        query |= {"batch": _BATCH, "max_bytes": _BATCH_BYTES}
        query |= {"start_time": start_time} if start_time else {"seq": seq}
        target = f"$JS.API.DIRECT.GET.{stream}".encode()
        self._request(target, msgspec.json.encode(query), b"", on_reply, timeout)
        while True:
            message = await arrived.get()
            if message is None:
                raise BusTimeout(f"reading {subject} from {stream} was cut off")
            if message.status in (204, 404):
                return
            if message.status == 503:
                raise NoResponders(f"the stream {stream} is not there")
            if message.status:
                raise BusError(f"direct get from {stream} answered {message.status}")
            yield _to_stored(message), int(message.header(b"Nats-Num-Pending") or 0)

    def _request(
        self, subject: bytes, data: bytes, headers: bytes, on_reply: _OnReply, timeout: float
    ) -> None:
        if not self.nc.is_connected:
            self._loop.call_soon(on_reply, None)
            return
        if self._is_too_large(headers, data):
            self._loop.call_soon(on_reply, Message(subject, b"", _TOO_LARGE, b""))
            return
        self._counter += 1
        self._replies[self._counter] = (self._loop.time() + timeout, on_reply)
        self._write(subject, self._inbox + b"%d" % self._counter, headers, data)

    def _is_too_large(self, headers: bytes, data: bytes) -> bool:
        """Whether the server would end the connection for it, and all that others do on it."""
        return len(headers) + len(data) > self.nc.max_payload

    def _write(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        if self._is_too_large(headers, data):
            logger.error("a message is too large", subject=subject.decode(), bytes=len(data))
            return
        if headers:
            size = len(headers)
            head = b"HPUB %b %b %d %d\r\n%b" % (subject, reply, size, size + len(data), headers)
        else:
            head = b"PUB %b %b %d\r\n" % (subject, reply, len(data))
        self._writer.write(head, data, CRLF)

    def _on_reply(self, message: Message) -> None:
        subject = message.subject
        number = int(subject[subject.rfind(b".") + 1 :])
        entry = self._replies.get(number)
        if entry is not None and entry[1](message):
            self._replies.pop(number, None)

    def _sweep(self) -> None:
        """Tell the requests whose time is over that no answer came; see that there is a bus."""
        if self.closed:
            self._tell_closed()
            return
        now = self._loop.time()
        # After a pause of the whole process the answers may lie unread in the socket: read first.
        if now - self._swept < 2 * _SWEEP:
            for number in [number for number, (due, _) in self._replies.items() if due <= now]:
                self._replies.pop(number)[1](None)
        self._swept = now
        self._sweeper = self._loop.call_later(_SWEEP, self._sweep)

    def _tell_closed(self) -> None:
        # nats-py's own callback does not come if what was to be sent last can't be.
        error = BusUnavailable(f"the bus has ended the connection: {self.nc.last_error}")
        self._fail_replies()
        for callback in list(self._on_closed):
            callback(error)

    def _fail_replies(self) -> None:
        waiting, self._replies = self._replies, {}
        for _, on_reply in waiting.values():
            on_reply(None)

    async def _until_connected(self, deadline: float) -> None:
        while not self.connected:
            if self._loop.time() >= deadline:
                raise BusUnavailable("the message bus can't be reached")
            await asyncio.sleep(0.02)

    def _chain_callbacks(self) -> None:
        """Hook into nats-py's callbacks, keeping those of whoever opened the connection."""
        before_disconnect, before_reconnect = self.nc._disconnected_cb, self.nc._reconnected_cb
        name = self.nc.options.get("name")

        async def disconnected() -> None:
            if not self.closed:
                logger.warning("the bus is away", connection=name)
            self._writer.drop()
            self._fail_replies()
            for callback in self._on_disconnect:
                callback()
            if before_disconnect is not None:
                await before_disconnect()

        async def reconnected() -> None:
            self.connected_at = time.time()
            logger.info("the bus is back", connection=name)
            for callback in list(self._on_reconnect):
                callback()
            if before_reconnect is not None:
                await before_reconnect()

        self.nc._disconnected_cb = disconnected
        self.nc._reconnected_cb = reconnected


def header_block(first: bytes = b"", msg_id: str = "", expect_last: int | None = None) -> bytes:
    """Build a raw header block. `first` is other lines, each closed by a line's end."""
    block = b"NATS/1.0\r\n" + first
    if msg_id:
        block += b"Nats-Msg-Id: %b\r\n" % msg_id.encode()
    if expect_last is not None:
        block += b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % expect_last
    return block + CRLF


def _to_ack(message: Message | None) -> Ack | BusError:
    if message is None:
        return BusTimeout("the stream did not answer: the outcome is unknown")
    if message.status == 503:
        return NoResponders("no stream takes this subject")
    if message.headers is _TOO_LARGE:
        return BusError("the message is larger than the bus takes")
    answer = _decode_pub_ack(message.data)
    if answer.error is None:
        return Ack(answer.stream, answer.seq, answer.duplicate)
    code = answer.error.err_code
    kind = WrongLastSequence if code == WRONG_LAST_SEQUENCE else BusError
    return kind(answer.error.description, err_code=code)


def _to_stored(message: Message) -> Stored:
    header = message.header
    return Stored(
        seq=int(header(b"Nats-Sequence") or 0),
        subject=(header(b"Nats-Subject") or b"").decode(),
        data=message.data,
        headers=message.headers,
        time=_to_unix(header(b"Nats-Time-Stamp") or b""),
    )


def _to_unix(stamp: bytes) -> float:
    """Read the server's RFC 3339 time stamp, which has nanoseconds."""
    seconds, _, fraction = stamp.rstrip(b"Z").partition(b".")
    if not seconds:
        return 0.0
    whole = calendar.timegm(time.strptime(seconds.decode(), "%Y-%m-%dT%H:%M:%S"))
    return (whole * 1_000_000_000 + int(fraction.ljust(9, b"0")[:9])) / 1e9
