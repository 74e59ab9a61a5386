"""A run's frames on their way into TOKENS, in append mode.

Every message after the fence expects the sequence of the run's previous one, so the stream takes it
only if nobody else wrote meanwhile. At most one message is unacked; what an engine makes in the
meantime goes into the next. A message that was refused, or whose ack is missing, is looked for in
the stream: if all that is there is our own, the writing goes on after it, else the run is lost to
another worker.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from bus import Ack, Stored
from schemas import frames, subjects
from schemas.errors import BusError, WrongLastSequence
from schemas.history import DONE, History

logger = structlog.get_logger()

MAX_MESSAGE = 256 * 1024  # bytes of frames in a message; a longer frame travels alone

_ACK_TIMEOUT = 3.0
_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.5)  # seconds between looks while the bus does not answer
_MISSING_LOOKS = 20  # … and how often what refuses our message may be invisible


class Log(Protocol):
    """What a writer needs of the bus."""

    def send_stored(
        self,
        subject: str,
        data: bytes,
        on_ack: Callable[[Ack | BusError], None],
        *,
        expect_last: int | None = None,
        timeout: float = 5.0,
    ) -> None:
        """Publish to a stream; `on_ack` gets the Ack or the BusError, exactly once."""

    def read_subject(self, stream: str, subject: str, start_seq: int = 1) -> AsyncIterator[Stored]:
        """Read what is stored on a subject from a sequence on, until caught up."""


class Lost(Exception):
    """The run is another worker's now: stop generating, heartbeating and acking."""


class Refused(Exception):
    """The first message was not taken: the subject must be fenced and read before going on."""


@dataclass(slots=True)
class _Message:
    """The one message that is on its way."""

    kind: int
    first: int
    count: int
    at: int
    data: bytes
    flags: int = 0
    status: int = 0
    trailer: bytes = b""

    def encode(self, epoch: int) -> bytes:
        return frames.encode(
            self.kind,
            epoch=epoch,
            first=self.first,
            count=self.count,
            at=self.at,
            data=self.data,
            flags=self.flags,
            status=self.status,
            trailer=self.trailer,
        )

    @property
    def commits(self) -> bool:
        """Whether it ends the run's text."""
        return bool(self.flags & frames.COMMIT)

    def is_in(self, frame: frames.Frame, epoch: int) -> bool:
        """Whether a stored message is this one: nobody else writes under our epoch."""
        return (frame.kind, frame.epoch, frame.first) == (self.kind, epoch, self.first)


class Writer:
    """The Sink that engines write into, and what commits and ends a run.

    `epoch` is the sequence of the own fence, the subject's last message; 0 for none. Without a
    fence the first message must be the subject's first, or Refused is raised.
    `on_stop` is called once, when the writing has ended for a reason of its own.
    """

    def __init__(
        self,
        log: Log,
        subject: str,
        owner: str,
        history: History,
        *,
        epoch: int = 0,
        on_stop: Callable[[Exception], None],
    ) -> None:
        self.history = history
        self.epoch = epoch
        self._log = log
        self._subject = subject
        self._owner = owner
        self._seq = epoch
        self._on_stop = on_stop
        self._stopped: Exception | None = None
        self._next = history.total
        self._parts: list[bytes] = []
        self._states: list[tuple[int, bytes]] = []  # each with the index after its chunks
        self._size = 0
        self._message: _Message | None = None
        self._ending: _Message | None = None  # flags, status and trailer of the commit to come
        self._waiters: list[asyncio.Future[None]] = []
        self._recovery: asyncio.Task[None] | None = None

    @property
    def sent(self) -> int:
        """How many frames the run has, those included that are still on their way."""
        return self._next

    def fence(self, fence: frames.Fence, on_open: Callable[[int], None]) -> None:
        """Take the run with a fence that must be the subject's first message.

        Frames may be sent at once: they wait for the fence's ack.
        """
        at = time.time_ns() // 1000

        def on_ack(ack: Ack | BusError) -> None:
            if self._stopped is not None:
                return
            if not isinstance(ack, Ack):
                self._stop(Refused())
                return
            self.epoch = self._seq = ack.seq
            self.history.add_fence(ack.seq, fence, at)
            self._message = None
            self._flush()
            on_open(ack.seq)

        trailer = frames.encode_trailer(fence)
        self._message = _Message(frames.FENCE, 0, 0, at, b"", trailer=trailer)
        self._log.send_stored(
            self._subject, self._message.encode(0), on_ack, expect_last=0, timeout=_ACK_TIMEOUT
        )

    def send(self, chunks: Sequence[bytes], state: bytes = b"") -> None:
        """Take a stream's chunks, each one chunk's JSON, and the engine's state after them."""
        index = self._next
        parts = self._parts
        size = self._size
        for chunk in chunks:
            part = b"id: %d\ndata: %b\n\n" % (index, chunk)
            parts.append(part)
            size += len(part)
            index += 1
        self._next = index
        self._size = size
        self.history.chunks += chunks
        if state:
            self._states.append((index, state))
            self.history.state += state
        if self._message is None:
            self._flush()

    def backlog(self) -> int:
        """Bytes taken but not yet stored."""
        return self._size + (len(self._message.data) if self._message is not None else 0)

    async def drain(self) -> None:
        """Wait until all that was sent is stored. Raises Lost, Refused."""
        if self._stopped is not None:
            raise self._stopped
        if self._message is not None or self._parts:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def commit(
        self,
        commit: frames.Commit,
        *,
        chunk: bytes = b"",
        body: Sequence[bytes] = (),
        flags: int = 0,
        status: int = 0,
    ) -> None:
        """End the text with a last chunk, or with all parts of an unstreamed body."""
        if chunk:
            part = b"id: %d\ndata: %b\n\n" % (self._next, chunk)
            self._parts.append(part)
            self._size += len(part)
            self._next += 1
        for part in body:
            self._parts.append(part)
            self._size += len(part)
            self._next += 1
        trailer = frames.encode_trailer(commit)
        self._ending = _Message(frames.DATA, 0, 0, 0, b"", flags | frames.COMMIT, status, trailer)
        if self._message is None and self._stopped is None:
            self._flush()
        await self.drain()
        if chunk and chunk != DONE and not flags & frames.ERROR:
            # A list of its own: who writes once more what was made has the one before.
            self.history.chunks = [*self.history.chunks, chunk]
        self.history.error = chunk if flags & frames.ERROR else None
        self.history.error_status = status
        self.history.body = list(body)
        self.history.add_commit(commit, self._ending.at)

    async def end(self, event_seq: int) -> None:
        """Tell that RunFinished is stored."""
        if self._stopped is None:
            trailer = frames.encode_trailer(frames.End(event_seq))
            self._post(_Message(frames.END, self._next, 0, _now(), b"", trailer=trailer))
        await self.drain()
        self.history.ended = True

    def close(self, reason: Exception) -> None:
        """Stop writing: nothing is sent and no ack believed from now on. Idempotent."""
        if self._stopped is not None:
            return
        self._stopped = reason
        if self._recovery is not None:
            self._recovery.cancel()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(reason)

    def _flush(self) -> None:
        """Send what waits, if anything does."""
        parts = self._parts
        if not parts:
            self._wake()
            return
        if self._size > MAX_MESSAGE:
            parts = self._take()
            data = b"".join(parts)
            self._size -= len(data)
        else:
            self._parts = []
            self._size = 0
            data = b"".join(parts)
        message = _Message(frames.DATA, self.history.total, len(parts), _now(), data)
        if self._states:
            message.trailer = self._take_states(message.first + message.count)
        if self._ending is not None:
            self._mark(message, self._ending)
        self._post(message)

    def _take(self) -> list[bytes]:
        """Take as many of the parts as one message may hold, at least one."""
        size = 0
        for number, part in enumerate(self._parts):
            size += len(part)
            if size > MAX_MESSAGE and number:
                break
        else:
            number = len(self._parts)
        taken, self._parts = self._parts[:number], self._parts[number:]
        return taken

    def _take_states(self, end: int) -> bytes:
        """The states whose chunks end before frame `end`.

        A batch of chunks that is cut in two has its state with its last chunk.
        """
        taken = b"".join([state for index, state in self._states if index <= end])
        self._states = [(index, state) for index, state in self._states if index > end]
        return taken

    def _mark(self, message: _Message, ending: _Message) -> None:
        """Give a message of the ending its flags; the last one is the commit."""
        message.flags = ending.flags & frames.RESULT
        if not self._parts:
            message.flags = ending.flags
            message.status = ending.status
            message.trailer = ending.trailer
            ending.at = message.at

    def _post(self, message: _Message) -> None:
        self._message = message
        self._log.send_stored(
            self._subject,
            message.encode(self.epoch),
            self._on_ack,
            expect_last=self._seq,
            timeout=_ACK_TIMEOUT,
        )

    def _on_ack(self, ack: Ack | BusError) -> None:
        if self._stopped is not None:
            return
        if isinstance(ack, Ack):
            self._seq = ack.seq
            self._landed()
        elif self.epoch == 0:
            self._stop(Refused())
        else:
            self._recovery = asyncio.get_running_loop().create_task(self._recover(ack))
            self._recovery.add_done_callback(self._on_recovered)

    def _on_recovered(self, recovery: asyncio.Task[None]) -> None:
        """What the recovery failed with ends the writing: nobody else waits for it."""
        if not recovery.cancelled():
            error = recovery.exception()
            if isinstance(error, Exception):
                self._stop(error)

    def _landed(self) -> None:
        """The message is stored: go on with what came meanwhile."""
        message = self._message
        assert message is not None
        self._message = None
        if message.kind == frames.DATA:
            self.history.add_data(message.count, message.at)
        self._flush()

    async def _recover(self, error: BusError) -> None:
        """Find out what became of the message, and go on after it or send it again.

        Raises Lost if that is another worker's business now.
        """
        refused = isinstance(error, WrongLastSequence)
        for look in itertools.count():
            if look or not refused:
                await asyncio.sleep(_PAUSES[min(look, len(_PAUSES) - 1)])
            try:
                seen, landed = await self._look()
            except BusError as failure:
                logger.debug("looking again", subject=self._subject, error=str(failure))
                continue
            if seen or not refused or look > _MISSING_LOOKS:
                break
        self._recovery = None
        if landed:
            self._landed()
        elif refused and not seen:
            raise Lost("the run's earlier frames are gone from the stream")
        else:
            assert self._message is not None
            self._post(self._message)

    async def _look(self) -> tuple[bool, bool]:
        """Read on after the last known sequence: was there anything, and is the message stored?

        A fence of our own that came late makes a new epoch. Raises Lost if another one wrote.
        """
        message = self._message
        assert message is not None
        after = self._log.read_subject(subjects.TOKENS, self._subject, self._seq + 1)
        # All of it before any of it is believed: the reading may break off.
        found = [stored async for stored in after]
        landed = False
        for stored in found:
            frame = frames.decode(stored.data)
            if frame.kind == frames.FENCE:
                self._adopt(stored.seq, frame, committed=landed and message.commits)
            elif not landed and message.is_in(frame, self.epoch):
                landed = True
            else:
                raise Lost("another worker writes the run")
            self._seq = stored.seq
        return bool(found), landed

    def _adopt(self, seq: int, frame: frames.Frame, *, committed: bool) -> None:
        """Go on under a fence of our own that was stored late. Raises Lost if it is another's."""
        fence = frames.decode_fence(frame.trailer)
        if fence.owner != self._owner:
            raise Lost("another worker has taken the run")
        self.epoch = seq
        if not committed:  # a history ends with its commit
            self.history.add_fence(seq, fence, frame.at)

    def _stop(self, reason: Exception) -> None:
        self.close(reason)
        self._on_stop(reason)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _now() -> int:
    return time.time_ns() // 1000


async def take_over(
    log: Log, subject: str, fence: frames.Fence, check: Callable[[], None]
) -> tuple[History, int]:
    """Fence a run that others may have written, and read what they wrote: its history, our epoch.

    Goes on until the bus answers; `check` may raise to end that.
    """
    message = frames.encode(frames.FENCE, at=_now(), trailer=frames.encode_trailer(fence))
    epoch = 0
    fold = frames.Fold()
    history = History()
    for look in itertools.count():
        check()
        if look:
            await asyncio.sleep(_PAUSES[min(look, len(_PAUSES)) - 1])
        try:
            # A fence whose ack was lost is sent again: two of the same owner are one.
            epoch = epoch or await _store(log, subject, message)
            async for stored in log.read_subject(subjects.TOKENS, subject, fold.seq + 1):
                history.read(fold, stored.seq, stored.data)
                if stored.seq == epoch:
                    return history, epoch
        except BusError as error:
            logger.debug("fencing again", subject=subject, error=str(error))
    raise AssertionError


async def _store(log: Log, subject: str, message: bytes) -> int:
    answer: asyncio.Future[Ack | BusError] = asyncio.get_running_loop().create_future()

    def on_ack(ack: Ack | BusError) -> None:
        if not answer.done():
            answer.set_result(ack)

    log.send_stored(subject, message, on_ack, timeout=_ACK_TIMEOUT)
    ack = await answer
    if isinstance(ack, Ack):
        return ack.seq
    raise ack
