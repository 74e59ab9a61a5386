"""Replays: a recorded request is run again, beside what clients wait for, and compared.

Nothing is stored of it but its frames, for an hour, and two facts in the log that nobody counts.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bus.connection import QUEUE_FULL, Bus
from edge.inbox import Inbox
from edge.recorded import Requests
from edge.responses.replaying import Repeating, needs_words, without_first
from schemas import frames, ids, replays, subjects
from schemas.api.needs import Needs
from schemas.api.replays import Replay, to_report
from schemas.commands import CancelRun, Kind, RunInference, Target, encode
from schemas.errors import (
    BusError,
    BusUnavailable,
    Conflict,
    DeadlineExceeded,
    Gone,
    InvalidRequest,
    QueueFull,
)
from schemas.events import RunAccepted, RunFinished
from schemas.history import History, finish

FindTargets = Callable[[str, Kind, Needs], list[Target]]
"""Admission: the deployments of a model that can do something. Raises a JanError."""

NOT_ENDED = "the run has not ended: there is nothing to compare with"
_UNTIL_TOLD = 2.0  # seconds from a run's commit until its end is in the log
_LOOK_AGAIN = 0.05
_SLACK = 5.0  # seconds after its deadline in which the worker's own word about it is awaited


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run that has ended, as the log has it."""

    accepted: RunAccepted
    finished: RunFinished

    @property
    def command(self) -> RunInference:
        """The job that it was."""
        return self.accepted.command


@dataclass(frozen=True, slots=True)
class Started:
    """A replay in the queue, and the run that it repeats."""

    original: Recorded
    accepted: RunAccepted
    request: bytes
    skipped: int = 0  # items of a response's output before the step that it begins at

    @property
    def run_id(self) -> str:
        """The replay's own id."""
        return self.accepted.command.run_id


class Replays:
    """Starts replays and waits for them. `deadline` is how many seconds one may take."""

    def __init__(
        self,
        bus: Bus,
        inbox: Inbox,
        requests: Requests,
        find_targets: FindTargets,
        repeating: Repeating,
        *,
        deadline: float,
    ) -> None:
        self._bus = bus
        self._inbox = inbox
        self._requests = requests
        self._find_targets = find_targets
        self._repeating = repeating
        self._deadline = deadline

    async def start(
        self,
        original: Recorded,
        run_id: str,
        *,
        model: str | None = None,
        target: Target | None = None,
        request_id: str = "",
        at: int = 1,
    ) -> Started:
        """Put a run into the queue once more, as `run_id`: for another model, or one deployment.

        A response may begin at a later step, with what was said and done before.

        Raises Gone if its request is not known as it was, ModelNotFound or InvalidRequest if
        the model can't take it, QueueFull, BusUnavailable.
        """
        command = original.command
        request = await self._requests.find(command)
        model = model or command.model
        needs = replays.needs_of_replay(command, request)
        targets = [target] if target else self._find_targets(model, command.kind, needs)
        skipped = 0
        if command.kind == "response":
            in_words = needs_words(partial(self._find_targets, model, command.kind), request)
            request, skipped = await self._repeating.prepare(
                command, original.finished, request, at=at, in_words=in_words
            )
        elif at > 1:
            raise InvalidRequest("only a response has steps after the first", param="at")
        job = replays.to_job(
            command,
            run_id,
            model=model,
            targets=targets,
            deadline=self._deadline,
            request_id=request_id or ids.new_id("req_"),
        )
        job, now = await self._requests.carry(job, command, request), time.time()
        await self._store(job)
        return Started(original, RunAccepted(job, now), request, skipped)

    async def report(self, started: Started) -> Replay:
        """Wait for a replay's end, and compare it. One that nobody waits for is cancelled.

        Raises DeadlineExceeded, BusUnavailable.
        """
        try:
            await self._wait(started.accepted.command)
        except BaseException:
            self._cancel(started.run_id)
            raise
        original = started.original
        history = await self._history(started.run_id)
        if history.commit is None:
            raise Gone("the replay's frames are no longer kept", code="expired")
        ended = await asyncio.to_thread(finish, started.run_id, history)
        finished = without_first(await self._with_result(original), started.skipped)
        runs = (original.accepted, finished), (started.accepted, ended)
        return await asyncio.to_thread(to_report, *runs, started.request)

    async def end_of(self, run_id: str) -> int:
        """Find where in the log the end of a run is told; 0 if its frames are no longer kept.

        Raises Conflict if it has not ended.
        """
        until = asyncio.get_running_loop().time() + _UNTIL_TOLD
        while True:
            fold = frames.Fold()
            await self._read(run_id, fold.apply)
            if fold.seq and not fold.committed:
                raise Conflict(NOT_ENDED, code="run_not_ended")
            # Readers have all of a run some moments before its end is told.
            if not fold.seq or fold.ended or asyncio.get_running_loop().time() > until:
                return fold.event_seq
            await asyncio.sleep(_LOOK_AGAIN)

    async def _history(self, run_id: str) -> History:
        fold, history = frames.Fold(), History()
        await self._read(run_id, partial(history.read, fold))
        return history

    async def _read(self, run_id: str, take: Callable[[int, bytes], object]) -> None:
        """Have all frames of a run taken in, with their sequences. Raises BusUnavailable."""
        subject = subjects.frames_anywhere(run_id)
        try:
            async for stored in self._bus.read_subject(subjects.TOKENS, subject):
                take(stored.seq, stored.data)
        except BusError as error:
            raise BusUnavailable("the message bus did not answer", retry_after=1) from error

    async def _store(self, job: RunInference) -> None:
        queue = subjects.inference_job(job.targets[0].pool, subjects.BACKGROUND)
        if job.kind == "response":
            queue = subjects.response_job(subjects.BACKGROUND)
        try:
            await self._bus.store(
                queue,
                encode(job),
                msg_id=f"JOBS:inference:{job.run_id}:0",
            )
        except BusError as error:
            if error.err_code in QUEUE_FULL:
                raise QueueFull(
                    "the queue of this model's workers is full", retry_after=1
                ) from None
            raise BusUnavailable("the message bus did not store it", retry_after=1) from error

    async def _wait(self, job: RunInference) -> None:
        """Wait for the commit."""
        reader = await self._inbox.attach(job.run_id, skip=sys.maxsize)
        until = asyncio.get_running_loop().time() + job.deadline - time.time() + _SLACK
        try:
            while await reader.next(until):
                pass  # an unstreamed result's parts
        finally:
            await self._inbox.release(reader)
        if not reader.fold.committed:
            raise DeadlineExceeded("the replay did not end in time")

    async def _with_result(self, original: Recorded) -> RunFinished:
        """The run's end; what was too large for the log is still in its frames, for an hour."""
        told, run_id = original.finished, original.command.run_id
        if told.result is not None or told.status != "completed":
            return told
        history = await self._history(run_id)
        if history.commit is None:
            return told
        return await asyncio.to_thread(finish, run_id, history)

    def _cancel(self, run_id: str) -> None:
        """Ask for its end, without waiting for anything: we may be stopping ourselves."""
        self._bus.send_stored(
            subjects.cancel(run_id),
            encode(CancelRun(run_id, "nobody waits for the replay", "", time.time())),
            lambda _: None,
            msg_id=f"CONTROL:cancel:{run_id}:0",
        )
