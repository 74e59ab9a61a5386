"""Facts about runs, as edges and workers tell them, for tests of what listens to the log."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from bus import Bus, open_bus
from schemas import ids, subjects
from schemas.commands import Kind, RunInference, Target, encode
from schemas.events import (
    Attempt,
    RunFinished,
    RunRefused,
    RunStarted,
    Status,
    encode_event,
    encode_run_accepted,
)
from tests.support.nats import NatsServer

REQUEST = b'{"model":"m","messages":[{"role":"user","content":"NUL \\u0000, umlaut \\u00e4"}]}'
USAGE = b'{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}'


@dataclass(frozen=True)
class Told:
    """One message of the log, before it is stored."""

    subject: str
    data: bytes


def accepted(
    run_id: str,
    *,
    at: float = 1000.0,
    principal: str = "user_a",
    kind: Kind = "chat",
    model: str = "m",
    stream: bool = True,
    request_id: str = "req_1",
    request: bytes = REQUEST,
    traceparent: str | None = None,
    **kept: Any,
) -> Told:
    """An edge took the request; `kept` says whether it is stored: `turn`, `store`."""
    job = RunInference(
        run_id=run_id,
        kind=kind,
        edge="edge-1",
        principal=principal,
        model=model,
        targets=[Target("local/m", "remote")],
        created=int(at),
        deadline=at + 600,
        request_id=request_id,
        stream=stream,
        request=msgspec.Raw(request),
        api_key="key_1",
        traceparent=traceparent,
        **kept,
    )
    return Told(subjects.run_event("accepted", run_id), encode_run_accepted(encode(job), at))


def refused(run_id: str, *, at: float = 1000.2) -> Told:
    """The queue did not take the job."""
    event = RunRefused(run_id, at, msgspec.Raw(b'{"error":{"code":"queue_full"}}'))
    return Told(subjects.run_event("refused", run_id), encode_event(event))


def started(
    run_id: str, *, attempt: int = 1, epoch: int = 10, at: float = 1000.5, resumed_at: int = 0
) -> Told:
    """A worker took the run."""
    event = RunStarted(run_id, attempt, f"inference-{attempt}", "local/m", epoch, resumed_at, at)
    return Told(subjects.run_event("started", run_id), encode_event(event))


def finished(
    run_id: str,
    *,
    at: float = 1002.0,
    status: Status = "completed",
    attempts: Sequence[Attempt] = (Attempt(1, "inference-1", 10, 1000.5, 0, 5),),
    usage: bytes | None = USAGE,
    error: bytes | None = None,
    result: bytes | None = b'{"id":"x"}',
    **kept: Any,
) -> Told:
    """The run has ended; `kept` is its command's."""
    event = RunFinished(
        run_id=run_id,
        status=status,
        at=at,
        deployment="local/m",
        attempts=list(attempts),
        frames=5,
        first_frame_at=1001.0,
        finish_reason="stop",
        usage=_raw(usage),
        error=_raw(error),
        result=_raw(result),
        **kept,
    )
    return Told(subjects.run_event("finished", run_id), encode_event(event))


def whole_run(run_id: str, **about: str) -> list[Told]:
    """All that is told of a run that goes well; `about` is the request's."""
    return [accepted(run_id, **about), started(run_id), finished(run_id)]  # type: ignore[arg-type]


@asynccontextmanager
async def tellers(nats: NatsServer) -> AsyncIterator[tuple[Bus, Bus]]:
    """The connections of those who tell the log of runs: an edge, and a worker of inference."""
    async with (
        open_bus(nats.url("edge"), name="edge") as edge,
        open_bus(nats.url("inference"), name="inference") as inference,
    ):
        yield edge, inference


async def store(
    edge: Bus, inference: Bus, told: Sequence[Told], *, others: Bus | None = None
) -> list[int]:
    """Put facts into the log, each by who may tell it; returns their sequences.

    `others` tells what is not about runs.
    """
    stored = []
    for message in told:
        bus = edge if ".accepted." in message.subject else inference
        if others is not None and not message.subject.startswith("events.run."):
            bus = others
        msg_id = hashlib.sha256(message.data).hexdigest()
        ack = await bus.store(message.subject, message.data, msg_id=msg_id, timeout=20.0)
        stored.append(ack.seq)
    return stored


def new_run() -> str:
    """A run's id."""
    return ids.new_run_id()


def _raw(data: bytes | None) -> msgspec.Raw | None:
    return None if data is None else msgspec.Raw(data)
