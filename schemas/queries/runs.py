"""Questions about runs, `query.runs.<verb>`, and their answers."""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.api.lists import Cursor, Limit, Order
from schemas.events import RunAccepted, RunFinished
from schemas.queries import Ask
from schemas.raw import OptionalRaw


class AskRun(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """Which run, by its id or (only for `query.runs.get`) by the id of the HTTP request."""

    run_id: str | None = None
    request_id: str | None = None


class AskRunEvents(AskRun, frozen=True, omit_defaults=True, kw_only=True):
    """`query.runs.events`: all facts about a run, or what follows the first `skip` of them.

    With `bodies` each has what the log says, and only those are told that nothing can come between
    any more. Their size is bounded: `has_more` says that there are more to ask for.
    """

    bodies: bool = False
    skip: Annotated[int, Meta(ge=0)] = 0


class AskRuns(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.runs.list`: runs by what is known of them, in the order of their creation.

    `since` (inclusive) and `until` are unix seconds of the creation; `after_id` and `before_id` are
    runs of the same principal, from which on the list goes in its order. Steps of a response are
    listed only for their `parent`.
    """

    since: float | None = None
    until: float | None = None
    kind: str | None = None
    status: str | None = None
    failed: bool = False  # those that failed, or were refused
    model: str | None = None
    conversation_id: str | None = None
    trace_id: str | None = None
    parent: str | None = None
    after_id: Cursor | None = None
    before_id: Cursor | None = None
    limit: Limit = 20
    order: Order = "desc"


class AttemptFacts(msgspec.Struct, frozen=True):
    """One worker's share of a run; `count` is known when the run has ended."""

    attempt: int
    worker: str
    epoch: int
    at: float
    deployment: str | None = None
    first: int = 0
    count: int | None = None


class RunFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of `query.runs.get`. Times in unix seconds; None: not known yet.

    `status` is accepted, refused, running, completed, failed or cancelled.
    """

    run_id: str
    status: str
    principal: str | None = None
    api_key_id: str | None = None
    kind: str | None = None
    model: str | None = None
    deployment: str | None = None
    edge: str | None = None
    stream: bool | None = None
    background: bool | None = None
    request_id: str | None = None
    trace_id: str | None = None
    conversation_id: str | None = None
    project_id: str | None = None
    parent: str | None = None  # the run that it is a step of
    accepted_at: float | None = None
    started_at: float | None = None
    first_frame_at: float | None = None
    finished_at: float | None = None
    frames: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    finish_reason: str | None = None
    usage: OptionalRaw = None
    error: OptionalRaw = None
    attempts: list[AttemptFacts] = []


class RunList(msgspec.Struct, frozen=True):
    """The answer of `query.runs.list`, without the runs' attempts."""

    runs: list[RunFacts]
    has_more: bool


class EventAt(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a fact about a run lies in EVENTS; `data` is what it says, if that is still there."""

    seq: int
    verb: str
    at: float
    data: OptionalRaw = None


class RunEvents(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of `query.runs.events`, oldest first; at most 1,000."""

    run_id: str
    events: list[EventAt]
    status: str = ""
    has_more: bool = False


class RunResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of `query.runs.result`: how a run ended, with its JSON body as the log has it.

    `result` is null for a run that has not ended or failed, whose body was over 256 KiB, or whose
    facts the log no longer holds.
    """

    run_id: str
    status: str
    kind: str | None = None
    stream: bool | None = None
    finish_reason: str | None = None
    error: OptionalRaw = None
    result: OptionalRaw = None


class RunRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of `query.runs.command`: what the log has of a run, request and result included.

    `finished` is null for a run that has not ended, or whose end the log no longer holds.
    """

    accepted: RunAccepted
    finished: RunFinished | None = None
