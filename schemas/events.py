"""Past-tense facts: what the log holds.

Versioned by addition only; readers ignore unknown fields.
"""

from typing import Literal

import msgspec

from schemas.api.hosted import Told
from schemas.commands import RunInference, Turn, encode
from schemas.raw import OptionalRaw

Status = Literal["completed", "failed", "cancelled"]


class RunAccepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """An edge took a request; `command` is the job it published, so a run can be replayed.

    Its `request` is the client's own, also where the job carries one that was resolved.
    """

    command: RunInference
    at: float
    v: int = 1


class RunRefused(msgspec.Struct, frozen=True, omit_defaults=True):
    """The queue did not take the job of a run that the log calls accepted: it never ran."""

    run_id: str
    at: float
    error: OptionalRaw = None  # the envelope that was sent
    v: int = 1


class RunStarted(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker took a run (one for each fence). `epoch` is the fence's sequence in TOKENS.

    A replay's is told as `events.replay.started`, which projections leave alone.
    """

    run_id: str
    attempt: int
    worker: str
    deployment: str
    epoch: int
    resumed_at: int  # index of the first frame of this attempt
    at: float
    replay_of: str | None = None
    v: int = 1


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One worker's share of a run, as its fence and its frames tell it."""

    attempt: int
    worker: str
    epoch: int
    at: float
    first: int = 0
    count: int = 0


class RunFinished(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run's end: a pure function of its frames up to the commit.

    `result` is the JSON body that an unstreamed request gets (a stream's chunks are put together);
    over 256 KiB it is left out and stays in TOKENS, but for a run that is stored, up to 3 MiB.
    `error` is the envelope that was sent. `turn`, `store` and `parent` are the command's.
    `told` goes with a response's result: what its items do not say of its calls.
    A replay's is told as `events.replay.finished`, without its result.
    """

    run_id: str
    status: Status
    at: float
    deployment: str = ""
    attempts: list[Attempt] = []
    frames: int = 0
    first_frame_at: float | None = None
    finish_reason: str | None = None
    usage: OptionalRaw = None
    error: OptionalRaw = None
    result: OptionalRaw = None
    replay_of: str | None = None
    turn: Turn | None = None
    store: bool = False
    parent: str | None = None
    told: dict[str, Told] = {}
    v: int = 1


class StateChanged(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a command, or a run's end, did to stored state: on `events.<noun>.<verb>.<shard>`.

    `rows` holds the changed rows by table, whole, as they are now: times in unix seconds, JSON as
    it is. A row counts if its `version` is higher than the one that is known, so the tables are the
    same whatever the order and number of deliveries. `entity` is what it is about, and gives the
    shard.
    """

    command: str
    principal: str
    entity: str
    at: float
    rows: dict[str, list[dict[str, msgspec.Raw]]] = {}
    run_id: str | None = None
    request_id: str | None = None
    v: int = 1


class DeadRetried(msgspec.Struct, frozen=True, omit_defaults=True):
    """The message `seq` of DEAD was sent again, on `subject`, and became `stored` of its stream.

    `run_id`: it went as a new run, as the old one had ended.
    """

    seq: int
    at: float
    subject: str
    stored: int
    run_id: str | None = None
    v: int = 1


def encode_run_accepted(job: bytes, at: float) -> bytes:
    """Encode RunAccepted around an already encoded job."""
    return b'{"v":1,"at":%.6f,"command":%b}' % (at, job)


decode_run_accepted = msgspec.json.Decoder(RunAccepted).decode
decode_run_refused = msgspec.json.Decoder(RunRefused).decode
decode_run_started = msgspec.json.Decoder(RunStarted).decode
decode_run_finished = msgspec.json.Decoder(RunFinished).decode
decode_dead_retried = msgspec.json.Decoder(DeadRetried).decode
decode_state_changed = msgspec.json.Decoder(StateChanged).decode
encode_event = encode
