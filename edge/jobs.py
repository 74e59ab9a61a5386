"""Stores jobs for the workers, each together with the fact that it was accepted."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from bus.connection import QUEUE_FULL, Ack, Bus
from bus.objects import ObjectStore
from edge.idempotency import Entry
from edge.orders import Caller, Order
from schemas import subjects
from schemas.commands import MAX_EMBEDDED, RunInference, Sources, Target, digest_of, encode
from schemas.content import Content, shorten
from schemas.errors import BusError, BusTimeout, BusUnavailable, JanError, QueueFull
from schemas.events import RunRefused, encode_event, encode_run_accepted
from schemas.objects import request_name, resolved_name


class Jobs:
    """Publishes runs. `timeout` is how many seconds the bus has to store one.

    `log_content` says what the log gets of runs that are not stored.
    """

    def __init__(
        self, bus: Bus, objects: ObjectStore, *, timeout: float, log_content: Content
    ) -> None:
        self._bus = bus
        self._objects = objects
        self._timeout = timeout
        self._log_content = log_content

    async def publish(
        self, entry: Entry, order: Order, caller: Caller, targets: list[Target]
    ) -> int:
        """Store the job and the fact that it was accepted, both at once; the fact's sequence.

        The job carries the resolved request; the fact the client's own, and what it referred to.

        Raises QueueFull, BusUnavailable.
        """
        run_id = entry.run_id
        job = RunInference(
            run_id=run_id,
            kind=order.kind,
            edge=entry.edge,
            principal=caller.principal,
            model=order.model,
            targets=targets,
            created=entry.created,
            deadline=entry.deadline,
            request_id=caller.request_id,
            stream=order.stream,
            background=order.background,
            include_usage=order.include_usage,
            api_key=caller.api_key,
            traceparent=caller.traceparent,
            turn=order.turn,
            store=order.store,
            webhook=order.webhook,
            content="full" if order.turn or order.store else self._log_content,
        )
        own = await carrying(self._objects, job, order.body, request_name(run_id))
        told = work = encode(own)
        if order.resolved is not None:
            resolved = await carrying(self._objects, job, order.resolved, resolved_name(run_id))
            sources = Sources(
                digest_of(order.identity or order.resolved), order.prompt, order.history
            )
            told = encode(msgspec.structs.replace(own, sources=sources))
            work = encode(resolved)
        if job.content != "full":
            told = encode(_told_less(job, order.body))
        priority = subjects.BACKGROUND if order.background else subjects.INTERACTIVE
        subject = subjects.inference_job(targets[0].pool, priority)
        if order.kind == "response":
            subject = subjects.response_job(priority)
        return await self._store_both(run_id, subject, work, told)

    async def _store_both(self, run_id: str, subject: str, job: bytes, told_job: bytes) -> int:
        both: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answers: dict[str, Ack | BusError] = {}

        def told(what: str) -> Callable[[Ack | BusError], None]:
            def on_ack(ack: Ack | BusError) -> None:
                answers[what] = ack
                if len(answers) == 2 and not both.done():
                    both.set_result(None)

            return on_ack

        send, timeout = self._bus.send_stored, self._timeout
        send(
            subject,
            job,
            told("job"),
            msg_id=f"JOBS:inference:{run_id}:0",
            timeout=timeout,
        )
        send(
            subjects.run_event("accepted", run_id),
            encode_run_accepted(told_job, time.time()),
            told("event"),
            msg_id=f"EVENTS:run.accepted:{run_id}:0",
            timeout=timeout,
        )
        await both
        refusals = [answer for answer in answers.values() if isinstance(answer, BusError)]
        if refusals:
            error = _refusal(refusals[0])
            if isinstance(answers["job"], BusError) and not isinstance(answers["job"], BusTimeout):
                self._tell_refused(run_id, error)
            raise error
        event = answers["event"]
        assert isinstance(event, Ack)
        return event.seq

    def _tell_refused(self, run_id: str, error: JanError) -> None:
        """Tell the log, which may have the run as accepted, that its job never will be."""
        refused = RunRefused(run_id=run_id, at=time.time(), error=msgspec.Raw(error.to_wire()))
        self._bus.send_stored(
            subjects.run_event("refused", run_id),
            encode_event(refused),
            lambda _: None,
            msg_id=f"EVENTS:run.refused:{run_id}:0",
        )


async def carrying(objects: ObjectStore, job: RunInference, body: bytes, name: str) -> RunInference:
    """The job with a request in it, or with where a large one lies in the object store."""
    if len(body) <= MAX_EMBEDDED:
        return msgspec.structs.replace(job, request=msgspec.Raw(body), request_ref=None)
    await objects.put(name, body)
    return msgspec.structs.replace(job, request=None, request_ref=name)


def _told_less(job: RunInference, body: bytes) -> RunInference:
    """The job as the log gets it where content is shortened or left out."""
    short = shorten(body) if job.content == "short" else b""
    return msgspec.structs.replace(
        job, request=msgspec.Raw(short) if 0 < len(short) <= MAX_EMBEDDED else None
    )


def _refusal(answer: BusError) -> JanError:
    if answer.err_code in QUEUE_FULL:
        return QueueFull("the queue of this model's workers is full", retry_after=1)
    return BusUnavailable("the message bus did not store the request", retry_after=1)
