"""The one live subscription of an edge, and its readers.

A reader takes a live message only if it follows the last one folded. On anything else (a gap, an
attach, a reconnect, 2 s of silence) it is *behind*: its consumer reads TOKENS from there on, then
applies what arrived live meanwhile. A consumer that is slow leaves its reader behind as well, so a
reader never holds more than a bounded number of bytes. The consumer's own task does the reading:
there is no task and no timer per reader.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Protocol, cast

import structlog

from bus.connection import Stored, Subscription
from bus.wire import Message, OnMessage
from schemas import frames, subjects
from schemas.errors import BusError, InternalError, JanError, NotFound

logger = structlog.get_logger()

MAX_HELD = 1 << 18  # bytes that wait in a reader, twice at most: to be sent, and while catching up
_MESSAGE_COST = 64  # bytes of memory that a waiting message takes besides its text
_SILENCE = 2.0  # seconds without a message, after which TOKENS is asked
_END_SILENCE = 0.5  # … while only END is missing
_TICK = 0.25  # seconds between looks for silent readers and for waits that are over
_SILENCE_READS = 50  # a tick: 2,000 idle streams cost 1 % of a core, each read every 10 s
_READ_AGAIN = 0.05  # seconds, when the bus's answer was older than what was heard live
_RETRY = 0.5  # seconds, when the bus did not answer
_SEQUENCE = b"\nNats-Sequence: "
_LAST_SEQUENCE = b"\nNats-Last-Sequence: "


class Log(Protocol):
    """What readers need of the bus."""

    @property
    def connected(self) -> bool:
        """Whether the server can be reached now."""

    async def subscribe(self, subject: str, on_message: OnMessage, queue: str = "") -> Subscription:
        """Receive messages by a plain function."""

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` each time the connection is up again; call the result to stop that."""

    def read_subject(self, stream: str, subject: str, start_seq: int = 1) -> AsyncIterator[Stored]:
        """Read what is stored on a subject from a sequence on, until caught up."""


class Reader:
    """One client's reading of one run: live where it can, from TOKENS where it must.

    `skip` is the index of the first frame that the client has not got yet.
    """

    __slots__ = (
        "_behind",
        "_chunks",
        "_held",
        "_held_size",
        "_log",
        "_overrun",
        "_reading",
        "_retry_at",
        "_size",
        "_skip",
        "_subject",
        "_subscription",
        "_waiter",
        "closed",
        "failure",
        "fold",
        "part",
        "quiet_since",
        "run_id",
        "wake_at",
    )

    def __init__(self, log: Log, run_id: str, subject: str, *, behind: bool, skip: int = 0) -> None:
        self.run_id = run_id
        self.fold = frames.Fold()
        self.closed = False
        self.failure: JanError | None = None
        self.part: Reader | None = None  # a run of its own that is read for this one meanwhile
        self.quiet_since = asyncio.get_running_loop().time()
        self.wake_at = 0.0
        self._log = log
        self._subject = subject
        self._skip = skip
        self._behind = behind
        self._reading = False
        self._overrun = False
        self._retry_at = 0.0
        self._chunks: list[bytes] = []
        self._size = 0
        self._held: list[tuple[int, int, bytes]] = []
        self._held_size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._subscription: Subscription | None = None

    @property
    def is_apart(self) -> bool:
        """Whether it has a subscription of its own: the run may be another edge's."""
        return self._subscription is not None

    @property
    def waiting(self) -> bool:
        """Whether the consumer is waiting, rather than busy with what it got."""
        return self._waiter is not None

    @property
    def done(self) -> bool:
        """Whether the run is committed and all of it was handed to the consumer."""
        return self.fold.committed and not self._chunks

    @property
    def error(self) -> frames.Frame | None:
        """The error frame that ended the run, if one did."""
        last = self.fold.last
        return last if last is not None and last.flags & frames.ERROR else None

    async def next(self, until: float) -> bytes:
        """Wait for bytes for the client; all there are, joined.

        Empty once `until` (the loop's clock) has passed, the run is done or the reader closed.
        Raises NotFound if the run's beginning is no longer stored, InternalError if a message
        can't be understood.
        """
        loop = asyncio.get_running_loop()
        while not self._chunks:
            if self.failure is not None:
                raise self.failure
            if self.fold.committed or self.closed:
                return b""
            now = loop.time()
            if self._behind and now >= self._retry_at and self._log.connected:
                await self._catch_up(loop)
            elif now >= until:
                return b""
            else:
                await self._wait(loop, until)
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        return data

    async def catch_up(self) -> None:
        """Read TOKENS once, without waiting for what comes. Errors leave the reader behind."""
        if self._behind and self._log.connected:
            await self._catch_up(asyncio.get_running_loop())

    async def until_ended(self, until: float) -> int:
        """Wait for a committed run's END; the sequence of its last fact, 0 if none has come.

        Of runs whose answer is stored: what is asked after the answer must come after that fact.
        """
        loop = asyncio.get_running_loop()
        while not self.fold.ended and not self.closed and loop.time() < until:
            if self._behind and loop.time() >= self._retry_at and self._log.connected:
                await self._catch_up(loop)
            else:
                await self._wait(loop, min(until, loop.time() + _END_SILENCE))
                # Nothing follows an END whose live message was lost, so nothing shows the gap.
                self._behind = self._behind or loop.time() >= self.wake_at
        return self.fold.event_seq

    def on_live(self, message: Message) -> None:
        """Take a message of the run as the server republished it."""
        if self.fold.ended or self.closed:
            return
        headers = message.headers
        seq = _number(headers, _SEQUENCE)
        last = _number(headers, _LAST_SEQUENCE)
        if self._behind:
            if self._reading:
                self._hold(last, seq, message.data)
        elif last == self.fold.seq:
            self._fold(seq, message.data)
            if self._size > MAX_HELD:
                self._behind = True  # the consumer sends what waits, then reads the rest
            self._wake()
        elif seq > self.fold.seq:
            self.fall_behind()

    def take(self, seq: int, data: bytes) -> None:
        """Fold the next message in stream order, however it was got."""
        self._fold(seq, data)

    def fall_behind(self) -> None:
        """Do not trust what comes live before TOKENS was read."""
        if not self.fold.committed:
            self._behind = True
            self._retry_at = 0.0
            self._wake()

    def stop(self) -> None:
        """Let the consumer go: it gets what waits, then nothing."""
        self.closed = True
        self._wake()
        if self.part is not None:
            self.part.stop()

    def tick(self, now: float) -> bool:
        """Look at the time; tell whether TOKENS is to be read because of silence."""
        if self._waiter is None:
            return False
        if now >= self.wake_at:
            self._wake()
        return now - self.quiet_since >= _SILENCE and not self._behind

    async def listen(self, subject: str) -> None:
        """Have a subscription of its own: the run belongs to another edge, or to an earlier one."""
        self._subscription = await self._log.subscribe(subject, self.on_live)

    async def unlisten(self) -> None:
        """End the subscription of its own."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def _wait(self, loop: asyncio.AbstractEventLoop, until: float) -> None:
        connected = self._behind and self._log.connected
        self.wake_at = min(until, self._retry_at) if connected else until
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _hold(self, last: int, seq: int, data: bytes) -> None:
        if self._held_size > MAX_HELD:
            self._overrun = True
            return
        self._held.append((last, seq, data))
        self._held_size += len(data) + _MESSAGE_COST

    async def _catch_up(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read on from the fold's position; stays behind if the bus fails or there is too much."""
        self._reading = True
        stored = self._log.read_subject(subjects.TOKENS, self._subject, self.fold.seq + 1)
        try:
            async with aclosing(cast(AsyncGenerator[Stored], stored)) as messages:
                async for message in messages:
                    self._subject = message.subject
                    self._fold(message.seq, message.data)
                    if self._size > MAX_HELD or self.fold.committed:
                        return
            self._apply_held(loop)
        except BusError as error:
            logger.warning("reading tokens again", run_id=self.run_id, error=error.message)
            self._retry_at = loop.time() + _RETRY
        finally:
            self.quiet_since = loop.time()
            self._reading = self._overrun = False
            self._held = []
            self._held_size = 0

    def _apply_held(self, loop: asyncio.AbstractEventLoop) -> None:
        self._behind = self._overrun
        for last, seq, data in self._held:
            if seq <= self.fold.seq:
                continue
            if last != self.fold.seq:
                self._behind = True
                self._retry_at = loop.time() + _READ_AGAIN
                return
            self._fold(seq, data)

    def _fold(self, seq: int, data: bytes) -> None:
        self.quiet_since = asyncio.get_running_loop().time()
        try:
            frame = self.fold.apply(seq, data)
            if frame is not None:
                self._keep(frame)
            elif not self.fold.last:
                self._look_for_a_beginning(frames.decode(data))
        except ValueError as error:
            self.failure = InternalError(f"a frame of {self.run_id} can't be read: {error}")

    def _keep(self, frame: frames.Frame) -> None:
        data = frame.data
        if frame.first < self._skip and not frame.flags & frames.RESULT:
            if frame.first + frame.events <= self._skip:
                return
            data = b"".join(frames.split_events(data)[self._skip - frame.first :])
        if data:
            self._chunks.append(data)
            self._size += len(data) + _MESSAGE_COST

    def _look_for_a_beginning(self, frame: frames.Frame) -> None:
        """Data whose fence or first frame is not there: retention has taken it."""
        same = frame.epoch == self.fold.epoch
        if frame.kind == frames.DATA and (frame.first if same else frame.epoch > self.fold.epoch):
            self.failure = NotFound("the run's frames are no longer kept", code="expired")
            self._wake()


class Inbox:
    """All readers of an edge, on one subscription and one timer. Made by `open_inbox`."""

    def __init__(self, log: Log, edge: str) -> None:
        self._log = log
        self._edge = edge
        self._live: dict[bytes, Reader] = {}
        self._readers: dict[Reader, None] = {}  # in the order in which silence was last looked into
        self._present: dict[str, int] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many readers there are."""
        return len(self._readers)

    async def start(self) -> None:
        """Begin to listen."""
        self._subscription = await self._log.subscribe(
            subjects.live_of_edge(self._edge), self._on_live
        )
        self._forget = self._log.on_reconnect(self._on_reconnect)
        self._timer = self._loop.call_later(_TICK, self._tick)

    async def close(self) -> None:
        """Stop listening; what readers there are get nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        self._forget()
        await self._subscription.unsubscribe()
        for reader in self._readers:
            reader.stop()

    def open(self, run_id: str) -> Reader:
        """Read a run that this edge is about to start: nothing is stored of it yet."""
        reader = Reader(self._log, run_id, subjects.frames(self._edge, run_id), behind=False)
        self._live[run_id.encode()] = reader
        self._add(reader)
        return reader

    async def attach(self, run_id: str, *, skip: int = 0) -> Reader:
        """Read a run that is there already, whichever edge started it, from frame `skip` on."""
        anywhere = subjects.frames_anywhere(run_id)
        reader = Reader(self._log, run_id, anywhere, behind=True, skip=skip)
        # Listen before reading: what is stored in between would be missed.
        await reader.listen(subjects.live_anywhere(run_id))
        self._add(reader)
        return reader

    async def follow(self, reader: Reader, part: str) -> Reader:
        """Read a part of the run that `reader` reads, from its beginning; it stops with that one.

        It has begun already, perhaps: what is stored of it is read first.
        """
        await self.leave_part(reader)
        if reader.is_apart:
            found = await self.attach(part)
        else:
            found = Reader(self._log, part, subjects.frames(self._edge, part), behind=True)
            self._live[part.encode()] = found
            self._add(found)
        reader.part = found
        if reader.closed:
            found.stop()
        return found

    async def leave_part(self, reader: Reader) -> None:
        """End the reading of a run's part."""
        part, reader.part = reader.part, None
        if part is not None:
            await self.release(part)

    async def release(self, reader: Reader) -> None:
        """Forget a reader, and that of its part. Idempotent."""
        await self.leave_part(reader)
        if reader not in self._readers:
            return
        del self._readers[reader]
        reader.stop()
        left = self._present[reader.run_id] - 1
        if left:
            self._present[reader.run_id] = left
        else:
            del self._present[reader.run_id]
        key = reader.run_id.encode()
        if self._live.get(key) is reader:
            del self._live[key]
        await reader.unlisten()

    def is_read(self, run_id: str) -> bool:
        """Whether anybody here reads the run."""
        return run_id in self._present

    def _add(self, reader: Reader) -> None:
        self._readers[reader] = None
        self._present[reader.run_id] = self._present.get(reader.run_id, 0) + 1

    def _on_live(self, message: Message) -> None:
        reader = self._live.get(subjects.last_token(message.subject))
        if reader is not None:
            reader.on_live(message)

    def _on_reconnect(self) -> None:
        for reader in self._readers:
            reader.fall_behind()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK, self._tick)
        now = self._loop.time()
        silent = [reader for reader in self._readers if reader.tick(now)]
        for reader in silent[:_SILENCE_READS]:
            del self._readers[reader]  # to the end: those behind it have their turn first
            self._readers[reader] = None
            reader.fall_behind()


@asynccontextmanager
async def open_inbox(log: Log, edge: str) -> AsyncIterator[Inbox]:
    """Keep an edge's inbox open for the context's life."""
    inbox = Inbox(log, edge)
    await inbox.start()
    try:
        yield inbox
    finally:
        await inbox.close()


def _number(headers: bytes, name: bytes) -> int:
    start = headers.find(name)
    if start < 0:
        return -1
    start += len(name)
    return int(headers[start : headers.index(b"\r", start)])
