"""One delivery of a call, from the fence to the ack."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog

from bus import Ack
from schemas import frames, subjects
from schemas.content import shorten
from schemas.errors import BusError, Cancelled, DeadlineExceeded
from schemas.history import History
from schemas.tools import (
    CallTool,
    Progress,
    ToolFinished,
    ToolProblem,
    ToolResult,
    ToolStarted,
    Word,
    decode_call_tool,
    decode_tool_result,
)
from workers.runtime.carried import Carried, Desk
from workers.runtime.delivery import Delivery
from workers.runtime.interrupt import HandedBack
from workers.runtime.writer import Lost, Refused, Writer, take_over
from workers.tools.arguments import read_object, texts_in
from workers.tools.means import Means
from workers.tools.metrics import ToolsMetrics
from workers.tools.outcome import Answer, Failed, encode, to_body, to_failure, to_result
from workers.tools.tool import Context, ServerTool
from workers.tools.toolbox import Toolbox

logger = structlog.get_logger()

TRIES = 3  # of an idempotent tool whose failure may pass, those of other workers included
DEATHS = 8  # of workers that had begun a call, after which it is blamed: others die beside it too

_PAUSES = (0.2, 1.0)  # seconds before its second and its third
_PROGRESS_EVERY = 0.2
_FRAMES_KEPT = 3000.0  # seconds: somewhat less than TOKENS keeps what was written of a call
_FINISH_TIMEOUT = 30.0
_MICROSECOND = 1e-6


@dataclass(frozen=True, slots=True)
class Workplace:
    """What all calls of a worker share."""

    desk: Desk
    toolbox: Toolbox
    means: Means
    metrics: ToolsMetrics


class Call(Carried):
    """Carries a call out."""

    def __init__(self, place: Workplace, job: CallTool, delivery: Delivery) -> None:
        super().__init__(
            place.desk,
            delivery,
            id=job.call_id,
            parent=job.parent,
            edge=job.edge,
            deadline=job.deadline,
        )
        self.job = job
        self._place = place
        self._tool = place.toolbox.find_for(job)
        self._told = 0.0
        self._given_up = False

    @property
    def label(self) -> str:
        """The tool's name for metrics: what a model made up is none."""
        return self._tool.about.name if self._tool is not None else "unknown"

    @property
    def _may_repeat(self) -> bool:
        """Whether it does no harm to begin it twice."""
        return self.job.idempotent or (self._tool is not None and self._tool.about.idempotent)

    def observe(self, seconds: float) -> None:
        """Take down how long it was in progress."""
        self._place.metrics.seconds.labels(self.label).observe(seconds)

    async def tell_story(self) -> None:
        """The whole story: fence, run, commit, ToolFinished, END, ack."""
        writer = await self._open()
        if writer.history.commit is None:
            result = await self._make(writer)
            await self._commit(writer, result)
        await self._finish(writer)

    async def _open(self) -> Writer:
        """Fence the call: as the first to do so, or to see what others have made of it."""
        if self._attempt == 1:
            writer = self._open_writer(History())
            writer.fence(self._fence(), self._tell_started)
            try:
                # A call may do something in the world: it begins when it is known to be ours.
                await writer.drain()
                return writer
            except Refused:
                self._interrupt.forget(Refused)
        check = self._interrupt.check
        history, epoch = await take_over(
            self._desk.bus, self._subject, self._fence(), lambda: check(Lost, HandedBack)
        )
        writer = self._open_writer(history, epoch)
        if history.commit is None:
            self._tell_started(epoch)
            self._place.metrics.handovers.labels("taken over").inc()
        return writer

    async def _make(self, writer: Writer) -> ToolResult:
        """Run the tool; whatever it fails with is a result too."""
        timer = asyncio.get_running_loop().call_later(
            self._seconds(), self.stop, DeadlineExceeded("the call took too long")
        )
        try:
            with self._interrupt.scope():
                return await self._run(writer)
        except Failed as failed:
            return to_failure(failed)
        except Cancelled as cancelled:
            return to_failure(Failed("cancelled", cancelled.message), "cancelled")
        except DeadlineExceeded:
            return to_failure(Failed("timeout", self._too_late()))
        finally:
            timer.cancel()

    def _seconds(self) -> float:
        """How long it may take: its tool's time-out, or what is left until its deadline."""
        most = self._tool.about.timeout if self._tool is not None else _FINISH_TIMEOUT
        return max(0.0, min(most, self.job.deadline - time.time()))

    def _too_late(self) -> str:
        if time.time() < self.job.deadline and self._tool is not None:
            return f"{self.job.tool} was stopped after {self._tool.about.timeout:g} s."
        return f"The time for the request was over before {self.job.tool} had ended."

    async def _run(self, writer: Writer) -> ToolResult:
        before = self._begun_before(writer.history)
        if before and not self._may_repeat:
            raise Failed(
                "unknown_outcome",
                f"A worker died while it ran {self.job.tool}: what it should do may have been "
                "done or not. It was not run again.",
            )
        tool, arguments = self._prepare()
        if time.time() >= self.job.deadline:
            never = f"No worker could begin {self.job.tool} in time."
            raise Failed("timeout", self._too_late() if before else never)
        if before >= DEATHS or self._attempt >= self._desk.max_deliver:
            self._given_up = True
            raise Failed("given_up", f"{before} workers died while they ran {self.job.tool}.")
        context = Context(self.job, self._place.means, self._to_teller(writer))
        for number in range(min(before, TRIES - 1), TRIES):
            try:
                return to_result(await self._try(tool, arguments, context))
            except Failed as failed:
                last = number == TRIES - 1 or not self._may_repeat
                if last or not failed.retryable:
                    raise
            self._place.metrics.retries.labels(self.label).inc()
            await asyncio.sleep(_PAUSES[min(number, len(_PAUSES) - 1)])
        raise AssertionError

    async def _try(self, tool: ServerTool, arguments: object, context: Context) -> Answer:
        try:
            return await tool.run(arguments, context)
        except Failed:
            raise
        except Exception as error:  # a fault of the tool's code is the call's, not the worker's
            logger.exception("tool failed", call_id=self.job.call_id, tool=self.label)
            what = type(error).__name__
            raise Failed("internal_error", f"{self.job.tool} failed inside ({what}).") from error

    def _prepare(self) -> tuple[ServerTool, object]:
        """Look at all that can be wrong before it begins. Raises Failed."""
        place, job, tool = self._place, self.job, self._tool
        if tool is None and (absent := place.toolbox.absent(job.tool)):
            raise Failed("unavailable", absent)
        if tool is None:
            names = ", ".join(place.toolbox.names()) or "none"
            raise Failed(
                "unknown_tool", f"There is no tool {job.tool[:100]!r}; there are: {names}."
            )
        found = read_object(job.tool, job.arguments)
        switch = place.toolbox.switches.find(tool.about.name)
        if not switch.enabled:
            raise Failed("disabled", f"{job.tool} is switched off on this server.")
        said = "\n".join(texts_in(found)).casefold()
        for word in switch.disallowed_keywords:
            if word.casefold() in said:
                raise Failed("refused", f"{job.tool} is not run for what holds {word!r} here.")
        if lacks := tool.lacks(place.means):
            raise Failed("unavailable", f"{job.tool} can't be used on this server: {lacks}.")
        return tool, tool.read(found)

    def _begun_before(self, history: History) -> int:
        """How many deliveries of it have begun before this one, as far as that is known."""
        before = len(history.attempts) - 1
        age = time.time() - self.job.created
        # What an earlier delivery wrote so long ago is not kept any more.
        return before or int(self._attempt > 1 and age > _FRAMES_KEPT)

    def _to_teller(self, writer: Writer) -> Callable[[Progress], None]:
        def tell(progress: Progress) -> None:
            now = asyncio.get_running_loop().time()
            if now - self._told < _PROGRESS_EVERY:
                return
            self._told = now
            told = encode(progress)
            writer.send([told])
            self._tell_parent(Word(self.job.call_id, progress=msgspec.Raw(told)))

        return tell

    async def _commit(self, writer: Writer, result: ToolResult) -> None:
        await writer.drain()  # progress is no part of the body
        commit = frames.Commit(
            status=result.status, worker=self._desk.worker, attempt=self._attempt
        )
        await writer.commit(commit, body=[to_body(result)], flags=frames.RESULT)
        self._place.metrics.calls.labels(self.label, result.status).inc()

    def _tell_started(self, epoch: int) -> None:
        job = self.job
        started = ToolStarted(
            call_id=job.call_id,
            tool=job.tool,
            worker=self._desk.worker,
            attempt=self._attempt,
            at=time.time(),
            parent=job.parent,
            principal=job.principal,
            request_id=job.request_id,
        )
        self._desk.bus.send_stored(
            subjects.tool_event("started", job.call_id, job.parent),
            encode(started),
            _ignore,
            msg_id=f"EVENTS:tool.started:{job.call_id}:{epoch}",
        )

    async def _finish(self, writer: Writer) -> None:
        """Tell the parent, the log, the readers, the queue. Each step may have been done before."""
        job, history = self.job, writer.history
        self._tell_parent(Word(job.call_id, ended=True))  # what it waits for is committed
        if not history.ended:
            told = await self._desk.bus.store(
                subjects.tool_event("finished", job.call_id, job.parent),
                to_tool_finished(job, history),
                msg_id=f"EVENTS:tool.finished:{job.call_id}:0",
                timeout=_FINISH_TIMEOUT,
            )
            await writer.end(told.seq)
        if self._given_up:
            await self._bury("the call was given up")
        else:
            self.delivery.ack()

    def _tell_parent(self, word: Word) -> None:
        if self.job.parent:
            self._desk.bus.publish(subjects.words(self.job.parent), encode(word))


def to_tool_finished(job: CallTool, history: History) -> bytes:
    """Encode ToolFinished: a pure function of the job and its frames, whoever tells it."""
    commit = history.commit
    assert commit is not None, "the call has no commit"
    body = b"".join(history.body)
    result = decode_tool_result(body)
    begun = history.attempts[0].at if history.attempts else history.committed_at * _MICROSECOND
    finished = ToolFinished(
        call_id=job.call_id,
        tool=job.tool,
        status=result.status,
        at=history.committed_at * _MICROSECOND,
        seconds=round(history.committed_at * _MICROSECOND - begun, 6),
        attempts=len(history.attempts),
        parent=job.parent,
        principal=job.principal,
        request_id=job.request_id,
        arguments=_kept(job, bytes(job.arguments)),
        result=_kept(job, body),
        error=result.error if job.content == "full" else _without_words(result),
    )
    return encode(finished)


def _kept(job: CallTool, text: bytes) -> msgspec.Raw | None:
    """What the log keeps of something that was said."""
    match job.content:
        case "full":
            return msgspec.Raw(text)
        case "short":
            return msgspec.Raw(shorten(text))
        case "none":
            return None


def _without_words(result: ToolResult) -> ToolProblem | None:
    """A failure may repeat the arguments: where the log keeps less, its code is left."""
    error = result.error
    return error and msgspec.structs.replace(error, message="")


def _ignore(ack: Ack | BusError) -> None:
    """ToolStarted is told for people to read; nothing depends on it."""


def to_call(place: Workplace, delivery: Delivery) -> Call:
    """Read a job. Raises DecodeError."""
    return Call(place, decode_call_tool(delivery.data), delivery)
