"""One delivery of a run, from the fence to the ack: what all workers have in common that write one.

Who writes what a run generates says how in `generate`; the rest, whoever dies in the middle, is
here.
"""

import asyncio
import time
from abc import abstractmethod
from dataclasses import dataclass
from functools import partial

import msgspec
import structlog

from bus import Ack
from schemas import events, frames, ids, subjects
from schemas.commands import RunInference, encode
from schemas.errors import BusError, Cancelled, DeadlineExceeded, InternalError, JanError
from schemas.history import History, to_run_finished
from schemas.tools import Word
from workers.runtime.carried import Carried, Desk
from workers.runtime.delivery import Delivery
from workers.runtime.interrupt import HandedBack
from workers.runtime.metrics import RunMetrics
from workers.runtime.writer import Lost, Refused, Writer, take_over

logger = structlog.get_logger()

_KNOWN_FOR = 60.0  # seconds; the server's memory of message ids is twice as long
_FINISH_TIMEOUT = 30.0
_LONG = 2000  # chunks, which take some milliseconds to put together
_HAND_BACK_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class RunDesk(Desk):
    """What all runs of a worker share to be written."""

    metrics: RunMetrics


@dataclass(slots=True)
class Ending:
    """The last frames of a run: a chunk of the stream, or all parts of a body."""

    status: str
    chunk: bytes = b""
    body: tuple[bytes, ...] = ()
    flags: int = 0
    http_status: int = 0
    usage: bytes | None = None  # a JSON object
    finish_reason: str | None = None


class Moved(Exception):
    """The job is another pool's now: it is done here."""


class LongRun(Carried):
    """Carries a run out."""

    fruitless_limit = 4  # deliveries in a row that add nothing to a run

    def __init__(self, desk: RunDesk, job: RunInference, delivery: Delivery) -> None:
        super().__init__(
            desk,
            delivery,
            id=job.run_id,
            parent=job.parent or "",
            edge=job.edge,
            deadline=job.deadline,
        )
        self.job = job
        self.unclaimed = 0  # how often edges were asked for its readers in vain
        self.deployment = job.targets[0].deployment if job.targets else ""
        self._metrics = desk.metrics
        self._made: tuple[Ending, list[bytes]] | None = None
        self._given_up = False

    @abstractmethod
    async def generate(self, writer: Writer) -> Ending:
        """Write what the run generates, after what is there already; say how it ends.

        A JanError ends the run too. Raises Moved.
        """

    @property
    def fenced(self) -> bool:
        """Whether it writes more than one message: a body alone needs no fence."""
        return self.job.stream

    async def to_ending(self, error: JanError, _writer: Writer) -> Ending:
        """The error frame that ends a run: the whole answer, if nothing was sent before it."""
        return Ending(
            status="cancelled" if isinstance(error, Cancelled) else "failed",
            chunk=error.to_wire(self.job.request_id),
            flags=frames.ERROR,
            http_status=error.http_status,
        )

    async def follow_up(self, history: History) -> None:
        """Do what follows from a run's end, before the queue forgets it; perhaps again."""

    def observe(self, seconds: float) -> None:
        """Take down how long it was in progress."""
        self._metrics.seconds.observe(seconds)

    async def tell_story(self) -> None:
        """The whole story: fence, generate, commit, RunFinished, END, ack."""
        too_late = self.job.deadline - time.time()
        timer = asyncio.get_running_loop().call_later(
            max(0.0, too_late), self.stop, DeadlineExceeded("the run's deadline has passed")
        )
        try:
            writer = await self._write()
        except Moved:
            self.delivery.ack()
            return
        finally:
            timer.cancel()
        try:
            await self._finish(writer)
        except Refused:
            # The commit had no fence, and its END found another's or no answer.
            await self._finish(await self._take_over())

    async def _write(self) -> Writer:
        """Write the run up to its commit, as the first to do so or after others."""
        if self._is_first():
            writer = self._begin()
            try:
                await self._generate_and_commit(writer)
                return writer
            except Refused:
                self._interrupt.forget(Refused)
        writer = await self._take_over()
        if writer.history.commit is None:
            await self._generate_and_commit(writer)
        return writer

    def _is_first(self) -> bool:
        """Whether probably nobody has written to the run yet. If it is wrong, Refused follows."""
        created = ids.created_ms(self.job.run_id) / 1000
        # A killed server forgets acks and delivers for the "first" time what is long done.
        known = created > self._desk.bus.connected_at
        return self._attempt == 1 and known and time.time() - created < _KNOWN_FOR

    def _begin(self) -> Writer:
        """Write without looking. Only a stream needs a fence: a body is one message, or refused."""
        writer = self._open_writer(History())
        if self.fenced:
            writer.fence(self._fence(), self._tell_started)
        return writer

    async def _take_over(self) -> Writer:
        """Fence the run, and read what others have written."""
        check = self._interrupt.check
        history, epoch = await take_over(
            self._desk.bus, self._subject, self._fence(), lambda: check(Lost, HandedBack)
        )
        writer = self._open_writer(history, epoch)
        if history.commit is None:
            self._tell_started(epoch)
            if history.total:
                self._metrics.handovers.labels("taken over").inc()
        return writer

    async def _generate_and_commit(self, writer: Writer) -> None:
        """Generate, and commit what came of it: the text's end, or the error that ended it."""
        if self._made is None or writer.history.total:
            self._made = await self._make(writer), writer.history.chunks
        else:
            # Refused with all of it made, and nobody has written since: it is not made again.
            writer.send(self._made[1])
        ending = self._made[0]
        if len(ending.body) > 1 and not writer.epoch:
            writer.fence(self._fence(), self._tell_started)
        commit = frames.Commit(
            status=ending.status,
            deployment=self.deployment,
            worker=self._desk.worker,
            attempt=self._attempt,
            finish_reason=ending.finish_reason,
            usage=msgspec.Raw(ending.usage) if ending.usage else None,
            stored=self.job.stored,
        )
        await writer.commit(
            commit,
            chunk=ending.chunk,
            body=ending.body,
            flags=ending.flags,
            status=ending.http_status,
        )

    async def _make(self, writer: Writer) -> Ending:
        """Generate; an error that readers shall know of is an ending too."""
        try:
            with self._interrupt.scope():
                self._require_hope(writer.history)
                return await self.generate(writer)
        except HandedBack:
            await _store_the_rest(writer)
            raise
        except JanError as error:
            return await self.to_ending(error, writer)

    def _require_hope(self, history: History) -> None:
        """Give the run up if nobody gets on with it. Raises InternalError."""
        if self._is_hopeless(history):
            self._given_up = True
            tries = self._attempt - 1
            raise InternalError(f"the run was given up: {tries} workers have failed at it")

    def _is_hopeless(self, history: History) -> bool:
        """Whether the job itself seems to end its workers, or this is its last delivery.

        A run that gets on meanwhile is not to blame: it was in bad company.
        """
        fruitless = self._attempt - 1 - history.last_fruitful()
        return fruitless >= self.fruitless_limit or self._attempt >= self._desk.max_deliver

    def _tell_started(self, epoch: int) -> None:
        assert self._writer is not None
        started = events.RunStarted(
            run_id=self.job.run_id,
            attempt=self._attempt,
            worker=self._desk.worker,
            deployment=self.deployment,
            epoch=epoch,
            resumed_at=self._writer.history.total,
            at=self._writer.history.attempts[-1].at,  # what its frames say: not after the first
            replay_of=self.job.replay_of,
        )
        subject, msg_id = self._event("started", epoch)
        self._desk.bus.send_stored(subject, encode(started), _ignore, msg_id=msg_id)

    def _event(self, verb: str, step: int = 0) -> tuple[str, str]:
        """Where a fact is told, and its id. A replay's are not among those of runs."""
        noun = "run" if self.job.replay_of is None else "replay"
        told = subjects.run_event if self.job.replay_of is None else subjects.replay_event
        return told(verb, self.job.run_id), f"EVENTS:{noun}.{verb}:{self.job.run_id}:{step}"

    async def _finish(self, writer: Writer) -> None:
        """Tell the log, then the readers, then the queue. Each step may have been done before."""
        history = writer.history
        assert history.commit is not None
        self._tell_parent()
        if not history.ended:
            subject, msg_id = self._event("finished")
            told = await self._desk.bus.store(
                subject,
                await _to_event(self.job, history),
                msg_id=msg_id,
                timeout=_FINISH_TIMEOUT,
            )
            await writer.end(told.seq)
            self._metrics.runs.labels(history.commit.status).inc()
            self._metrics.frames.inc(history.total)
        await self.follow_up(history)
        if self._given_up:
            await self._bury("the run was given up")
        else:
            self.delivery.ack()

    def _tell_parent(self) -> None:
        """Tell the response that this is a step of that it has ended."""
        if self.parent:
            word = Word(self.id, ended=True)
            self._desk.bus.publish(subjects.words(self.parent), encode(word))


async def _to_event(job: RunInference, history: History) -> bytes:
    """Encode RunFinished; a long stream is put together off the loop."""
    told = partial(
        to_run_finished,
        job.run_id,
        history,
        job.replay_of,
        turn=job.turn,
        store=job.store,
        parent=job.parent,
        content=job.content,
    )
    return await asyncio.to_thread(told) if len(history.chunks) > _LONG else told()


async def _store_the_rest(writer: Writer) -> None:
    """Let what was generated be stored, for whoever goes on with it."""
    try:
        await asyncio.wait_for(writer.drain(), _HAND_BACK_TIMEOUT)
    except TimeoutError:
        logger.warning("handed back with frames that were not stored")


def _ignore(ack: Ack | BusError) -> None:
    """RunStarted is told for people to read; nothing depends on it."""
