"""Replays: a recorded run, run again and compared."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.api.decoding import decoder
from schemas.events import RunAccepted, RunFinished
from schemas.transcripts import Comparison, Transcript, compare, to_transcript

OBJECT = "run.replay"


class ReplayRequest(Struct):
    """What is to be different this time."""

    model: str | None = None
    at: Annotated[int, Meta(ge=1, le=64)] | None = None  # the step to begin at


class Replay(Struct, kw_only=True):
    """A replay that was queued, or with its report, one that has ended.

    `id` is a run's: it can be read like any other at its own URL. `same` sums the comparison up.
    """

    id: str
    object: str = OBJECT
    replay_of: str
    status: Literal["queued", "completed", "failed", "cancelled"]
    same: bool | UnsetType = UNSET
    original: Transcript | UnsetType = UNSET
    replay: Transcript | UnsetType = UNSET
    comparison: Comparison | UnsetType = UNSET


def to_report(
    original: tuple[RunAccepted, RunFinished],
    replay: tuple[RunAccepted, RunFinished],
    request: bytes,
) -> Replay:
    """Report on a replay, by the facts of both runs and the request that they had."""
    before, after = to_transcript(*original), to_transcript(*replay)
    comparison = compare(before, after, request)
    return Replay(
        id=after.run_id,
        replay_of=before.run_id,
        status=replay[1].status,
        same=comparison.same,
        original=_without_vectors(before),
        replay=_without_vectors(after),
        comparison=comparison,
    )


def _without_vectors(transcript: Transcript) -> Transcript:
    """Nobody reads them: what matters is how similar they are."""
    return msgspec.structs.replace(transcript, vectors=[])


decode_request = decoder(ReplayRequest)
