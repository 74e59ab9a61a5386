"""Runs: what the log says of each generation, as clients see it. Times are unix seconds."""

from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from schemas.api.fields import ModelId
from schemas.api.lists import Cursor, Paging
from schemas.commands import Kind
from schemas.ids import public_id
from schemas.queries.runs import AttemptFacts, RunFacts
from schemas.raw import OptionalRaw

RunStatus = Literal["accepted", "refused", "running", "completed", "failed", "cancelled"]
Moment = Annotated[float, Meta(ge=0, le=1e11)]
ENDED = frozenset(("refused", "completed", "failed", "cancelled"))


class RunQuery(Paging, frozen=True, omit_defaults=True, kw_only=True):
    """GET /v1/runs: which runs are asked for."""

    status: RunStatus | None = None
    kind: Kind | None = None
    model: ModelId | None = None
    parent: Cursor | None = None
    conversation: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    since: Moment | None = None
    until: Moment | None = None


class RunError(Struct):
    """Why a run failed."""

    message: str | None = None
    type: str | None = None
    code: str | None = None
    param: str | None = None


class RunAttempt(Struct):
    """One worker's share of a run; `count` (of frames) is known when the run has ended."""

    attempt: int
    worker: str
    deployment: str | None
    started_at: float
    first: int
    count: int | None


class Run(Struct, kw_only=True):
    """A generation. `result_id` is the id that its client knows its answer by.

    `parent_id` is the run that it is a step of. What is not known yet is null.
    """

    id: str
    object: Literal["run"] = "run"
    result_id: str | None
    status: str
    kind: str | None
    model: str | None
    deployment: str | None
    principal_id: str | None
    api_key_id: str | None
    request_id: str | None
    trace_id: str | None
    parent_id: str | None
    conversation_id: str | None
    project_id: str | None
    stream: bool | None
    background: bool | None
    created_at: float | None
    started_at: float | None
    first_frame_at: float | None
    finished_at: float | None
    frames: int | None
    finish_reason: str | None
    usage: OptionalRaw
    error: RunError | None


class RunWithAttempts(Run, kw_only=True):
    """A generation, and who worked on it."""

    attempts: list[RunAttempt]


class RunPage(Struct):
    """A page of runs."""

    object: Literal["list"]
    data: list[Run]
    first_id: str | None
    last_id: str | None
    has_more: bool
    next_after: str | None


class RunEvent(Struct):
    """A fact about a run: `run.accepted`, `run.started`, `run.finished`, … and what it says.

    Among a response's are those about its calls: `tool.started`, `tool.finished`.

    `sequence_number` counts a run's facts from 0. `erased` says that the log does not hold what it
    said any more.
    """

    type: str
    sequence_number: int
    run_id: str
    at: float
    object: Literal["run.event"] = "run.event"
    erased: bool | msgspec.UnsetType = msgspec.UNSET


class RunEventList(Struct):
    """A run's facts, oldest first. `next_after` is the `starting_after` of what comes next."""

    object: Literal["list"]
    data: list[RunEvent]
    first_id: str | None
    last_id: str | None
    has_more: bool
    next_after: str | None


def to_run(facts: RunFacts) -> Run:
    """Show a run as it is listed."""
    return Run(**_shared(facts))


def to_run_with_attempts(facts: RunFacts) -> RunWithAttempts:
    """Show a run on its own."""
    return RunWithAttempts(**_shared(facts), attempts=list(map(_to_attempt, facts.attempts)))


def to_error(envelope: msgspec.Raw | None) -> RunError | None:
    """Take the error out of the envelope that was sent."""
    if envelope is None:
        return None
    try:
        return msgspec.json.decode(envelope, type=_Envelope).error
    except msgspec.DecodeError:
        return RunError("the error can't be read")


class _Envelope(Struct):
    error: RunError


def _shared(facts: RunFacts) -> dict[str, Any]:
    named = facts.kind in get_args(Kind) and facts.parent is None
    return {
        "id": facts.run_id,
        "result_id": public_id(facts.run_id, facts.kind or "") if named else None,
        "status": facts.status,
        "kind": facts.kind,
        "model": facts.model,
        "deployment": facts.deployment,
        "principal_id": facts.principal,
        "api_key_id": facts.api_key_id,
        "request_id": facts.request_id,
        "trace_id": facts.trace_id,
        "parent_id": facts.parent,
        "conversation_id": facts.conversation_id,
        "project_id": facts.project_id,
        "stream": facts.stream,
        "background": facts.background,
        "created_at": facts.accepted_at,
        "started_at": facts.started_at,
        "first_frame_at": facts.first_frame_at,
        "finished_at": facts.finished_at,
        "frames": facts.frames,
        "finish_reason": facts.finish_reason,
        "usage": facts.usage,
        "error": to_error(facts.error),
    }


def _to_attempt(told: AttemptFacts) -> RunAttempt:
    return RunAttempt(told.attempt, told.worker, told.deployment, told.at, told.first, told.count)
