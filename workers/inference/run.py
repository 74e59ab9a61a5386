"""One delivery of a run: which deployment generates it, and how."""

from dataclasses import dataclass, replace
from typing import Any

import msgspec
import structlog

from bus import ObjectStore
from schemas import frames, ids, subjects
from schemas.commands import RunInference, decode_run_inference, encode
from schemas.errors import (
    InternalError,
    InvalidRequest,
    JanError,
    UpstreamNotFound,
    UpstreamRejected,
)
from schemas.history import DONE
from workers.inference.engines import Captured, Generation, Outcome
from workers.inference.failover import Attempt, Fleet, Turns
from workers.inference.metrics import InferenceMetrics
from workers.inference.plain import in_words
from workers.runtime.delivery import Delivery
from workers.runtime.long_run import Ending, LongRun, RunDesk
from workers.runtime.writer import MAX_MESSAGE, Writer

logger = structlog.get_logger()

_split_body = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Workplace:
    """What all runs of a worker share."""

    desk: RunDesk
    objects: ObjectStore
    fleet: Fleet
    metrics: InferenceMetrics


class Run(LongRun):
    """A run that engines generate."""

    def __init__(self, place: Workplace, job: RunInference, delivery: Delivery) -> None:
        super().__init__(place.desk, job, delivery)
        self._place = place

    async def generate(self, writer: Writer) -> Ending:
        """Generate by the first deployment that does it."""
        if not self.job.targets:
            raise InvalidRequest("the job names no deployment")
        generation = await self._to_generation()
        place = self._place
        turns = Turns(place.fleet, self.job, self._move_on)
        if self.job.stream:
            outcome = await self._stream(generation, turns, writer)
            return _to_ending(outcome, chunk=DONE)
        if writer.history.total:
            raise InternalError("a worker died while it sent the result")
        body, outcome = await self._complete(generation, turns)
        return _to_ending(outcome, body=_parts(body), flags=frames.RESULT)

    async def _stream(self, generation: Generation, turns: Turns, writer: Writer) -> Outcome:
        """Stream from one deployment after the other, as far as the next can take it up."""
        chunks = writer.history.chunks
        if chunks and not turns.can_continue():
            whole = _whole(Captured(chunks), generation)
            if whole is not None:
                return whole
        while True:
            with await turns.next(writer.sent) as attempt:
                if chunks:
                    captured = Captured(list(chunks), bytes(writer.history.state))
                    generation = replace(generation, captured=captured)
                engine, asked = attempt.deployment.engine, self._at(generation, attempt)
                try:
                    outcome = await engine.generate(asked, attempt.watch(writer))
                except JanError as error:
                    self._note_failure(turns, attempt, error)
                else:
                    attempt.succeed()
                    return outcome

    async def _complete(self, generation: Generation, turns: Turns) -> tuple[bytes, Outcome]:
        """Get the whole answer from the first deployment that gives one."""
        while True:
            with await turns.next(0) as attempt:
                try:
                    answer = await attempt.deployment.engine.complete(self._at(generation, attempt))
                except JanError as error:
                    self._note_failure(turns, attempt, error)
                else:
                    attempt.succeed()
                    return answer

    def _at(self, generation: Generation, attempt: Attempt) -> Generation:
        deployment = attempt.deployment
        self.deployment = deployment.id
        # What was called before, by another model perhaps, must not end a chat with this one.
        body = generation.body if deployment.has_tools else in_words(generation.body)
        return replace(generation, served_name=deployment.served_name, body=body)

    def _note_failure(self, turns: Turns, attempt: Attempt, error: JanError) -> None:
        """Remember what a deployment failed with; raise it if no other can do better."""
        if not error.retryable and not isinstance(error, UpstreamNotFound):
            if isinstance(error, UpstreamRejected):
                attempt.succeed()  # it works: the request is at fault
            raise error
        name = attempt.deployment.id
        self._place.metrics.failures.labels(name).inc()
        logger.warning(
            "deployment failed", run_id=self.job.run_id, deployment=name, error=error.message
        )
        turns.note_failure(attempt, error)

    async def _move_on(self, job: RunInference, pool: str) -> None:
        """Give the job to the workers of another pool. Raises BusError if their queue is full."""
        priority = subjects.BACKGROUND if job.background else subjects.INTERACTIVE
        await self._place.desk.bus.store(
            subjects.inference_job(pool, priority),
            encode(job),
            msg_id=f"JOBS:inference:{job.run_id}:{pool}-{job.moves}",
        )
        self._place.metrics.handovers.labels("moved").inc()

    async def _to_generation(self) -> Generation:
        job = self.job
        body: bytes | msgspec.Raw | None = job.request
        if job.request_ref is not None:
            body = await self._place.objects.get(job.request_ref)
        if body is None:
            raise InvalidRequest("the job has no request")
        return Generation(
            run_id=job.run_id,
            public_id=ids.public_id(job.run_id, job.kind),
            kind=job.kind,
            model=job.model,
            served_name="",
            created=job.created,
            body=_to_body(body),
            stream=job.stream,
            include_usage=job.include_usage,
            deadline=job.deadline,
        )


def _to_body(request: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    try:
        return _split_body(request)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the request is not a JSON object: {error}") from None


def _parts(body: bytes) -> tuple[bytes, ...]:
    """Cut a body into parts that a message can hold; at least one, be it empty."""
    if len(body) <= MAX_MESSAGE:
        return (body,)
    return tuple(body[start : start + MAX_MESSAGE] for start in range(0, len(body), MAX_MESSAGE))


def _whole(captured: Captured, generation: Generation) -> Outcome | None:
    """The outcome of a text that is complete but for its commit; None if there is more to come."""
    choices = captured.choices()
    wanted = generation.body.get("n")
    if wanted is not None and bytes(wanted) not in (b"null", b"%d" % len(choices)):
        return None
    if not choices or any(choice.finish_reason is None for choice in choices.values()):
        return None
    return Outcome(finish_reason=choices[min(choices)].finish_reason)


def _to_ending(outcome: Outcome, **last: Any) -> Ending:
    return Ending("completed", usage=outcome.usage, finish_reason=outcome.finish_reason, **last)


def to_run(place: Workplace, delivery: Delivery) -> Run:
    """Read a job. Raises DecodeError."""
    return Run(place, decode_run_inference(delivery.data), delivery)
