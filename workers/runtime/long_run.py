"""One delivery of a run, from the fence to the ack: what all workers have in common that write one.

Who writes what a run generates says how in `generate`; the rest, whoever dies in the middle, is
here.
"""

import asyncio
import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial

import msgspec
import structlog

from bus import Ack, Bus
from schemas import events, frames, ids, subjects
from schemas.commands import RunInference, encode
from schemas.errors import BusError, Cancelled, DeadlineExceeded, InternalError, JanError
from schemas.history import History, to_run_finished
from schemas.tools import Word
from workers.runtime import bury
from workers.runtime.delivery import Delivery
from workers.runtime.interrupt import HandedBack, Interrupt
from workers.runtime.metrics import RunMetrics
from workers.runtime.writer import Lost, Refused, Writer, take_over

logger = structlog.get_logger()

_KNOWN_FOR = 60.0  # seconds; the server's memory of message ids is twice as long
_FINISH_TIMEOUT = 30.0
_LONG = 2000  # chunks, which take some milliseconds to put together
_HAND_BACK_TIMEOUT = 1.0
_BACK_OFF = (0.2, 1.0, 3.0, 5.0)  # seconds before the next delivery
_FRUITLESS_LIMIT = 4  # deliveries in a row that add nothing to a run


@dataclass(frozen=True, slots=True)
class Desk:
    """What all runs of a worker share to be written."""

    bus: Bus
    worker: str
    max_deliver: int
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


class LongRun(ABC):
    """Carries a run out. `stop` may be called at any time, with the reason."""

    def __init__(self, desk: Desk, job: RunInference, delivery: Delivery) -> None:
        self.job = job
        self.delivery = delivery
        self.unclaimed = 0  # how often edges were asked for its readers in vain
        self.lost = False
        self.deployment = job.targets[0].deployment if job.targets else ""
        self._desk = desk
        self._attempt = delivery.delivered
        self._subject = subjects.frames(job.edge, job.run_id)
        self._owner = os.urandom(8).hex()
        self._interrupt = Interrupt()
        self._writer: Writer | None = None
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

    def stop(self, reason: Exception) -> None:
        """Have it end: Lost without a word, HandedBack for others, a JanError for its readers."""
        if isinstance(reason, Lost):
            self.lost = True
            if self._writer is not None:
                self._writer.close(reason)
        self._interrupt(reason)

    async def carry_out(self) -> None:
        """Do the job, and answer its delivery. Every fault ends here."""
        job = self.job
        try:
            await self._carry_out()
        except Lost as lost:
            self._desk.metrics.handovers.labels("lost").inc()
            logger.info("run is lost to another worker", run_id=job.run_id, reason=str(lost))
        except HandedBack:
            self._desk.metrics.handovers.labels("handed back").inc()
            logger.info("run is handed back", run_id=job.run_id)
            self.delivery.nak()
        except BusError as error:
            logger.warning("run will be delivered again", run_id=job.run_id, error=str(error))
            self._give_back()
        except Exception as error:  # a fault of ours: the run is tried again, then buried
            logger.exception("run failed", run_id=job.run_id)
            await self._give_up_or_back(error)
        finally:
            if self._writer is not None:
                self._writer.close(Lost("the delivery has ended"))

    async def _carry_out(self) -> None:
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
                self._desk.metrics.handovers.labels("taken over").inc()
        return writer

    def _open_writer(self, history: History, epoch: int = 0) -> Writer:
        self._writer = Writer(
            self._desk.bus,
            self._subject,
            self._owner,
            history,
            epoch=epoch,
            on_stop=self.stop,
        )
        return self._writer

    def _fence(self) -> frames.Fence:
        return frames.Fence(self._owner, self._attempt, self._desk.worker, self.job.deadline)

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
        return fruitless >= _FRUITLESS_LIMIT or self._attempt >= self._desk.max_deliver

    def _tell_started(self, epoch: int) -> None:
        assert self._writer is not None
        started = events.RunStarted(
            run_id=self.job.run_id,
            attempt=self._attempt,
            worker=self._desk.worker,
            deployment=self.deployment,
            epoch=epoch,
            resumed_at=self._writer.history.total,
            at=time.time(),
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
            self._desk.metrics.runs.labels(history.commit.status).inc()
            self._desk.metrics.frames.inc(history.total)
        if self._given_up:
            await self._bury("the run was given up")
        else:
            self.delivery.ack()

    def _tell_parent(self) -> None:
        """Tell the response that this is a step of that it has ended."""
        if self.job.parent is not None:
            word = Word(self.job.run_id, ended=True)
            self._desk.bus.publish(subjects.words(self.job.parent), encode(word))

    def _give_back(self) -> None:
        self.delivery.nak(_BACK_OFF[min(self._attempt, len(_BACK_OFF)) - 1])

    async def _give_up_or_back(self, error: Exception) -> None:
        if self._attempt < self._desk.max_deliver:
            self._give_back()
            return
        try:
            await self._bury(repr(error))
        except BusError:
            logger.exception("run can't be buried", run_id=self.job.run_id)

    async def _bury(self, reason: str) -> None:
        """Keep the job for people to look at: no worker will get it again."""
        delivery = self.delivery
        await bury(
            self._desk.bus,
            subjects.JOBS,
            delivery.subject,
            delivery.data,
            error=reason,
            sequence=delivery.sequence,
        )
        delivery.term()


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
