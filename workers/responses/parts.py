"""The parts of a response: its steps and calls, each a run of its own that some worker carries out.

A part tells on `words.<response>` that it has ended, and how far it is. A word may be lost: after
two seconds without one the frames are looked at.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import structlog

from bus import QUEUE_FULL, Bus, Message
from schemas import frames, subjects
from schemas.commands import CancelRun, RunInference, encode
from schemas.errors import BusError, QueueFull
from schemas.events import encode_run_accepted
from schemas.history import History
from schemas.tools import Word, decode_word
from workers.runtime.writer import Lost, Writer, take_over

logger = structlog.get_logger()

SLACK: Final = 3.0  # seconds after its deadline in which a part's own word about it is awaited
_SILENCE: Final = 2.0  # seconds without a word, after which frames are looked at
_LEAST: Final = 0.05
_STORE_SECONDS: Final = 5.0
_AGAIN: Final = 1.0


class Mailbox:
    """The words to one response."""

    def __init__(self) -> None:
        self._words: list[Word] = []
        self._arrived = asyncio.Event()

    def put(self, word: Word) -> None:
        """Take a word."""
        self._words.append(word)
        self._arrived.set()

    async def next(self, until: float) -> list[Word]:
        """Wait for words; none if it is time to look for oneself, at `until` at the latest."""
        wait = min(_SILENCE, max(_LEAST, until - time.time()))
        try:
            await asyncio.wait_for(self._arrived.wait(), wait)
        except TimeoutError:
            return []
        words, self._words = self._words, []
        self._arrived.clear()
        return words


def ended(words: Sequence[Word]) -> set[str]:
    """The parts that words say have ended."""
    return {word.about for word in words if word.ended}


class Parts:
    """Gives parts out, hears words, reads parts' frames, and ends parts. Made by `open_parts`."""

    def __init__(self, bus: Bus, worker: str) -> None:
        self._bus = bus
        self._worker = worker
        self._mailboxes: dict[str, Mailbox] = {}

    @asynccontextmanager
    async def mailbox(self, run_id: str) -> AsyncIterator[Mailbox]:
        """Hear the words to a response for the context's life."""
        mailbox = self._mailboxes[run_id] = Mailbox()
        try:
            yield mailbox
        finally:
            if self._mailboxes.get(run_id) is mailbox:
                del self._mailboxes[run_id]

    def on_word(self, message: Message) -> None:
        """Take a word; most are to responses of other workers."""
        run_id = subjects.last_token(message.subject).decode()
        mailbox = self._mailboxes.get(run_id)
        if mailbox is None:
            return
        try:
            mailbox.put(decode_word(message.data))
        except msgspec.DecodeError as error:
            logger.warning("a word can't be read", run_id=run_id, error=str(error))

    async def have_done(self, subject: str, job: bytes, msg_id: str, *, patient: bool) -> None:
        """Put a part's job into its queue; while that is full, wait if `patient`.

        Raises QueueFull, BusError.
        """
        while True:
            try:
                await self._bus.store(subject, job, msg_id=msg_id, timeout=_STORE_SECONDS)
                return
            except BusError as error:
                if error.err_code not in QUEUE_FULL:
                    raise
            if not patient:
                raise QueueFull("the queue of the workers is full", retry_after=1)
            await asyncio.sleep(_AGAIN)  # nobody waits: there will be room

    def tell_accepted(self, step: RunInference) -> None:
        """Tell the log of a step, without waiting for it."""
        self._bus.send_stored(
            subjects.run_event("accepted", step.run_id),
            encode_run_accepted(encode(step), time.time()),
            lambda _: None,
            msg_id=f"EVENTS:run.accepted:{step.run_id}:0",
        )

    async def read(self, edge: str, part: str) -> History:
        """Read what a part has written. Raises BusError."""
        fold, history = frames.Fold(), History()
        async for stored in self._bus.read_subject(subjects.TOKENS, subjects.frames(edge, part)):
            history.read(fold, stored.seq, stored.data)
        return history

    async def is_over(self, edge: str, part: str) -> bool:
        """Look whether a part has written its last: `read` reads all, which may be much.

        Raises BusError.
        """
        last = await self._bus.last_message(subjects.TOKENS, subjects.frames(edge, part))
        return last is not None and frames.is_last(last.data)

    def cancel(self, parts: Sequence[str], reason: str) -> None:
        """Ask for the end of parts, without waiting for it."""
        for part in parts:
            self._bus.send_stored(
                subjects.cancel(part),
                encode(CancelRun(part, reason, "", time.time())),
                lambda _: None,
                msg_id=f"CONTROL:cancel:{part}:0",
            )

    async def end(self, edge: str, part: str, commit: frames.Commit, last: bytes) -> History:
        """End a part that nobody carries out any more: by `last`, an error, if it has not ended.

        Whoever was at it finds our fence, and can't be heard. Raises BusError.
        """
        owner = f"{self._worker}-{time.time_ns():x}"
        fence = frames.Fence(owner, 0, self._worker, time.time())
        subject = subjects.frames(edge, part)
        history, epoch = await take_over(self._bus, subject, fence, _never)
        if history.commit is not None:
            return history
        writer = Writer(self._bus, subject, owner, history, epoch=epoch, on_stop=_ignore)
        try:
            await writer.commit(commit, chunk=last, flags=frames.ERROR, status=500)
        except Lost as error:
            raise BusError(f"somebody else writes {part}") from error
        finally:
            writer.close(Lost("the part has ended"))
        return history


def _never() -> None:
    """Nothing ends the taking over of a part but the bus."""


def _ignore(_reason: Exception) -> None:
    """`commit` raises it too."""


@asynccontextmanager
async def open_parts(bus: Bus, worker: str) -> AsyncIterator[Parts]:
    """Hear words for the context's life."""
    parts = Parts(bus, worker)
    subscription = await bus.subscribe(subjects.ALL_WORDS, parts.on_word)
    try:
        yield parts
    finally:
        await subscription.unsubscribe()
