"""Questions on `query.<noun>.<verb>` and their answers, which a persistence worker gives.

A question with a `principal` sees only what is that principal's: another's is as good as missing.
An answer is the asked-for object, or a Failure.
"""

from typing import TypeVar

import msgspec

from schemas.commands import encode
from schemas.errors import InternalError, InvalidRequest, JanError, NotFound, Unavailable
from schemas.raw import OptionalRaw

T = TypeVar("T")


class AskRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which run, by its id or (only for `query.runs.get`) by the id of the HTTP request."""

    run_id: str | None = None
    request_id: str | None = None
    principal: str | None = None
    v: int = 1


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

    `status` is accepted, running, completed, failed or cancelled.
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


class EventAt(msgspec.Struct, frozen=True):
    """Where a fact about a run lies in EVENTS."""

    seq: int
    verb: str
    at: float


class RunEvents(msgspec.Struct, frozen=True):
    """The answer of `query.runs.events`, oldest first; at most 1,000."""

    run_id: str
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


class _Problem(msgspec.Struct, frozen=True):
    code: str
    message: str


class Failure(msgspec.Struct, frozen=True):
    """The answer to a question that can't be answered."""

    error: _Problem


_FAILURE = b'{"error":{"code":'
_RAISED: dict[str, type[JanError]] = {
    "not_found": NotFound,
    "invalid_value": InvalidRequest,
    "unavailable": Unavailable,
}
_decode_failure = msgspec.json.Decoder(Failure).decode


def encode_failure(error: JanError) -> bytes:
    """Encode an answer that says why there is none."""
    return encode(Failure(_Problem(error.wire_code or "internal_error", error.message)))


def decode_answer(data: bytes, kind: type[T]) -> T:
    """Decode an answer. Raises NotFound, InvalidRequest, Unavailable, InternalError."""
    if data.startswith(_FAILURE):
        problem = _decode_failure(data).error
        raise _RAISED.get(problem.code, InternalError)(problem.message)
    return msgspec.json.decode(data, type=kind)


decode_ask_run = msgspec.json.Decoder(AskRun).decode
encode_answer = encode
