"""Questions on `query.<noun>.<verb>` and their answers, which a persistence worker gives.

A question with a `principal` sees only what is that principal's: another's is as good as missing.
An answer is the asked-for object, or a Failure.
"""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from schemas.api.lists import Cursor, Limit, Order, Paging
from schemas.commands import encode
from schemas.errors import (
    Conflict,
    Forbidden,
    Gone,
    InternalError,
    InvalidRequest,
    JanError,
    NotFound,
    Unavailable,
)
from schemas.events import RunAccepted, RunFinished
from schemas.raw import OptionalRaw

T = TypeVar("T")


class Ask(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What every question has: who asks (None: the operator, who sees everything), and `after`.

    `after` is a sequence of EVENTS. An answer that depends on the log waits until the database has
    everything up to there, so that a client sees what it has written.
    """

    principal: str | None = None
    after: int = 0
    v: int = 1


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
    runs of the same principal, from which on the list goes in its order.
    """

    since: float | None = None
    until: float | None = None
    kind: str | None = None
    status: str | None = None
    failed: bool = False  # those that failed, or were refused
    model: str | None = None
    conversation_id: str | None = None
    trace_id: str | None = None
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


class AskEntity(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.entities.events`: what happened to a stored thing, by its id."""

    entity: str


class EntityEvents(msgspec.Struct, frozen=True):
    """The answer of `query.entities.events`, oldest first; at most 1,000. Verbs are <noun>.<verb>.

    There are none of what never was, and none of what is another principal's.
    """

    entity: str
    events: list[EventAt]


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


class AskConversation(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.get`."""

    id: str


class AskConversations(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.list`: by project, by words in titles and texts."""

    paging: Paging = Paging()
    project_id: str | None = None
    search: str | None = None


class AskItems(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.items`: those of a branch (None: of the active one)."""

    conversation: str
    paging: Paging = Paging()
    branch: str | None = None


class AskItem(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.item`."""

    conversation: str
    item: str


class AskBranch(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.branches` (without a name: all) and `query.conversations.branch`."""

    conversation: str
    name: str | None = None


class AskExport(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.export`: a conversation's items after a position, of all branches.

    With a `branch` only what it is made of. `upto` ends it: the position before which it began.
    """

    conversation: str
    after_position: int = -1
    upto: int | None = None
    branch: str | None = None


class ExportPage(msgspec.Struct, frozen=True):
    """The answer of `query.conversations.export`: its head, and JSON of its items.

    `items` are objects with `branch`, `position` and `item`. `upto` is the position of the next
    item that would be added; `last` that of the last item here.
    """

    conversation: msgspec.Raw
    branches: msgspec.Raw
    items: list[msgspec.Raw]
    active_branch: str
    title: str | None
    upto: int
    last: int
    has_more: bool


class AskShares(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.shares.list`: all, or those of a conversation."""

    paging: Paging = Paging()
    conversation: str | None = None
    include_revoked: bool = False


class AskPublicShare(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.shares.public`: anybody may ask, who knows the slug."""

    slug: str


class AskProject(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.projects.get`."""

    id: str


class AskProjects(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.projects.list`: all, or those that are (not) archived, (not) favourites."""

    paging: Paging = Paging()
    archived: bool | None = None
    favorite: bool | None = None


class AskSettings(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.settings.get`: what the asker has set."""


class AskPrompt(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.prompts.get`: by id or name; the newest version, or a certain one."""

    id: str
    version: int | None = None


class AskPrompts(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.prompts.list`: the newest version of each; by project, by model."""

    paging: Paging = Paging()
    project_id: str | None = None
    model: str | None = None


class AskPromptVersions(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.prompts.versions`: by id or name; places in this list are versions."""

    id: str
    paging: Paging = Paging()


class AskRendered(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.prompts.render`: a prompt with these values in the places of its variables."""

    id: str
    version: int | None = None
    variables: dict[str, str] = {}


class AskContext(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.context`: what a model needs to go on with a branch."""

    conversation: str
    branch: str | None = None


class Context(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of `query.conversations.context`.

    `messages` is a JSON array of chat messages: the newest whole turns of the branch, all of it
    unless `trimmed`. `head` is the position of its last item.
    """

    branch: str
    head: int
    messages: msgspec.Raw
    instruction: str | None = None
    project: str | None = None
    images: bool = False
    trimmed: bool = False


class AskCompletion(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.completions.get`, and with `paging` `query.completions.messages`."""

    id: str
    paging: Paging = Paging()


class AskCompletions(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.completions.list`: by model, by what their metadata has."""

    paging: Paging = Paging()
    model: str | None = None
    metadata: dict[str, str] = {}


class AskUsage(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.usage.sum`: of runs accepted from `start` until before `end` (unix seconds)."""

    start: float
    end: float
    group_by: list[str] = []


class _Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    message: str
    status: int = 500
    type: str = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None


class Failure(msgspec.Struct, frozen=True):
    """The answer to a question or a command that fails: the error as the client will see it."""

    failure: _Problem


_FAILURE = b'{"failure":{'
_RAISED: dict[int, type[JanError]] = {
    400: InvalidRequest,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    503: Unavailable,
}
_decode_failure = msgspec.json.Decoder(Failure).decode


def encode_failure(error: JanError) -> bytes:
    """Encode an answer that says why there is none."""
    problem = _Problem(
        message=error.message,
        status=error.http_status,
        type=error.wire_type,
        code=error.wire_code,
        param=error.param,
        retry_after=error.retry_after,
    )
    return encode(Failure(problem))


def raise_failure(data: bytes) -> None:
    """Raise what an answer reports, if it is a Failure."""
    if data.startswith(_FAILURE):
        told = _decode_failure(data).failure
        raise _RAISED.get(told.status, InternalError)(
            told.message,
            param=told.param,
            code=told.code,
            retry_after=told.retry_after,
            status=told.status,
            type=told.type,
        )


def decode_answer(data: bytes, kind: type[T]) -> T:
    """Decode an answer. Raises NotFound, InvalidRequest, Conflict, Unavailable, InternalError."""
    raise_failure(data)
    return msgspec.json.decode(data, type=kind)


encode_answer = encode
