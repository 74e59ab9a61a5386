"""What an engine is asked to do, where it puts what it makes, and what it says at the end."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import msgspec
from prometheus_client import Metric

from schemas.commands import Kind
from schemas.raw import OptionalRaw

BACKLOG_LIMIT = 1 << 20  # bytes made but not yet stored, above which an engine pauses


@dataclass(slots=True)
class CapturedChoice:
    """What one choice had come to when its attempt ended."""

    text: str = ""
    pieces: int = 0  # chunks that carried something, about as many as tokens
    continuable: bool = True  # plain text only: no tool calls, no reasoning
    finish_reason: str | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: OptionalRaw = None
    function_call: OptionalRaw = None
    reasoning: OptionalRaw = None
    reasoning_content: OptionalRaw = None
    refusal: str | None = None


class _ChunkChoice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_ChunkChoice] | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


@dataclass(slots=True)
class Captured:
    """What earlier attempts already put into frames: the chunks' JSON in order, as sent.

    `state` is what the engine stored with these chunks, joined in the order in which it gave it; a
    last batch of chunks may be there in part, and then without its state.
    """

    chunks: list[bytes] = field(default_factory=list)
    state: bytes = b""

    def choices(self) -> dict[int, CapturedChoice]:
        """Put the chunks together, choice by choice."""
        choices: dict[int, CapturedChoice] = {}
        for chunk in self.chunks:
            try:
                pieces = _decode_chunk(chunk).choices or ()
            except msgspec.ValidationError:  # content in parts, say: an upstream's own form
                choices.setdefault(0, CapturedChoice()).continuable = False
                continue
            for piece in pieces:
                _add(choices.setdefault(piece.index, CapturedChoice()), piece)
        return choices


def _add(choice: CapturedChoice, piece: _ChunkChoice) -> None:
    delta = piece.delta or _Delta()
    text = piece.text or delta.content or ""
    choice.text += text
    choice.pieces += bool(text)
    choice.finish_reason = piece.finish_reason or choice.finish_reason
    others = (delta.tool_calls, delta.function_call, delta.reasoning, delta.reasoning_content)
    if delta.refusal or any(other is not None and bytes(other) != b"null" for other in others):
        choice.continuable = False


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine is asked to do.

    `body` is the client's JSON, split at the top level, its values untouched. `include_usage`: the
    client asked for the usage chunk. `deadline` in unix seconds. A `count` asks how many tokens the
    prompt of a chat has: `complete` answers `{"input_tokens": N}`.
    """

    run_id: str
    public_id: str
    kind: Kind
    model: str
    served_name: str
    created: int
    body: dict[str, msgspec.Raw]
    stream: bool
    include_usage: bool
    deadline: float
    captured: Captured | None = None


@dataclass(slots=True)
class Outcome:
    """How a generation ended: the usage as a JSON object, and the first choice's finish reason."""

    usage: bytes | None = None
    finish_reason: str | None = None


class Sink(Protocol):
    """Where an engine puts the chunks of a stream."""

    def send(self, chunks: Sequence[bytes], state: bytes = b"") -> None:
        """Take chunks, each one chunk's JSON without framing or line breaks. Never blocks.

        `state` is stored with them, and not shown to readers: what the engine will need beside the
        chunks to continue after them, such as the ids of their tokens.
        """

    def backlog(self) -> int:
        """Bytes taken but not yet stored; above BACKLOG_LIMIT an engine pauses and drains."""

    async def drain(self) -> None:
        """Wait until all that was sent is stored."""


Tell = Callable[[str], None]  # takes a word on how far the loading is


class Engine(Protocol):
    """Something that generates.

    Its errors are those of schemas.errors. To cancel, cancel the task: the engine lets go of its
    upstream before the CancelledError leaves it. A stream that ends without saying so is an error.
    Making one is quick and harmless; `open` comes before everything else but `close`.
    """

    kind: ClassVar[str]
    can_continue: bool  # from what an earlier attempt has sent; otherwise `captured` is never given

    async def open(self, tell: Tell) -> None:
        """Load what generating needs, off the loop. Raises EngineUnavailable, with one line."""

    def slots(self) -> int | None:
        """How many runs it can take at all, those that it has included; None: any number."""

    async def generate(self, job: Generation, sink: Sink) -> Outcome:
        """Stream a generation into the sink. The usage chunk only if the job includes usage."""

    async def complete(self, job: Generation) -> tuple[bytes, Outcome]:
        """Generate in one piece: the JSON body of the response."""

    async def check(self) -> None:
        """Raise a JanError if the deployment can't be used."""

    async def close(self) -> None:
        """Let go of connections and memory."""


@runtime_checkable
class Measured(Protocol):
    """What an engine may be besides: one with metrics of its own, for the worker's /metrics."""

    def collect(self) -> Iterable[Metric]:
        """Its metrics as of now, in no time; none while it is not open."""
