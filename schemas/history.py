"""What a run came to, as its frames tell it: its history, and RunFinished made from that.

The history is kept up while frames are written, and read back from TOKENS by whoever takes a run
over; both give the same, so that RunFinished is the same whoever tells it.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from schemas import frames
from schemas.api.hosted import Told, bounded
from schemas.commands import Turn, encode
from schemas.content import Content
from schemas.events import Attempt, RunFinished
from schemas.responses.story import is_story, result_of, told_of

MAX_RESULT = 256 * 1024  # bytes of a result that an event carries; a larger one stays in TOKENS
MAX_STORED_RESULT = 3 << 20  # … of a run that is stored: with its request one message of the bus
DONE = b"[DONE]"

_DECODED_AT_ONCE = 500  # chunks: half a millisecond, in which no other thread runs

_MICROSECOND = 1e-6


@dataclass(slots=True)
class History:
    """A run's frames up to its commit."""

    attempts: list[Attempt] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # frames of each attempt
    total: int = 0  # frames that are stored and count
    first_at: int = 0  # microseconds, as in the frames
    chunks: list[bytes] = field(default_factory=list)  # a stream's, as sent
    state: bytearray = field(default_factory=bytearray)  # what its engine stored with them
    body: list[bytes] = field(default_factory=list)  # the parts of an unstreamed result
    error: bytes | None = None
    error_status: int = 0  # of HTTP
    commit: frames.Commit | None = None
    committed_at: int = 0
    ended: bool = False
    event_seq: int = 0  # of RunFinished in EVENTS, once it has ended
    _owner: str = ""

    def add_fence(self, epoch: int, fence: frames.Fence, at: int) -> None:
        """A delivery took the run. A fence whose ack was lost is there twice."""
        if self.commit is not None:
            return
        if fence.owner == self._owner:
            self.attempts[-1] = msgspec.structs.replace(self.attempts[-1], epoch=epoch)
            return
        self._owner = fence.owner
        attempt = Attempt(fence.attempt, fence.worker, epoch, at * _MICROSECOND, self.total)
        self.attempts.append(attempt)
        self.counts.append(0)

    def add_data(self, count: int, at: int) -> None:
        """Frames that count were stored."""
        if not self.total:
            self.first_at = at
        self.total += count
        if self.counts:
            self.counts[-1] += count

    def last_fruitful(self) -> int:
        """The number of the last attempt that added frames; 0 if none has."""
        counted = zip(self.attempts, self.counts, strict=True)
        return max((attempt.attempt for attempt, count in counted if count), default=0)

    def add_commit(self, commit: frames.Commit, at: int) -> None:
        """The run's text ended."""
        self.commit = commit
        self.committed_at = at
        if not self.attempts:
            self.attempts.append(Attempt(commit.attempt, commit.worker, 0, at * _MICROSECOND))
            self.counts.append(self.total)

    def read(self, fold: frames.Fold, seq: int, message: bytes) -> None:
        """Take in the next message of the subject, through the fold."""
        frame = fold.apply(seq, message)
        self.ended, self.event_seq = fold.ended, fold.event_seq
        if frame is None:
            if fold.epoch == seq:
                found = frames.decode(message)
                self.add_fence(seq, frames.decode_fence(found.trailer), found.at)
            return
        self._read_data(frame)
        self.add_data(frame.events, frame.at)
        if frame.flags & frames.COMMIT:
            self.add_commit(frames.decode_commit(frame.trailer), frame.at)

    def _read_data(self, frame: frames.Frame) -> None:
        if frame.flags & frames.RESULT:
            self.body.append(frame.data)
            return
        if not frame.flags & frames.COMMIT:
            self.state += frame.trailer
        chunks = [frames.chunk_of(event) for event in frames.split_events(frame.data)]
        if frame.flags & frames.ERROR:
            self.error = chunks.pop()
            self.error_status = frame.status
        self.chunks += [chunk for chunk in chunks if chunk != DONE]


def to_run_finished(
    run_id: str,
    history: History,
    replay_of: str | None = None,
    *,
    turn: Turn | None = None,
    store: bool = False,
    parent: str | None = None,
    content: Content = "full",
) -> bytes:
    """Encode RunFinished: a pure function of the command and the frames up to the commit.

    A replay's result stays in its frames: what a replay says is kept no longer than they are. So
    does that of a run of whose content the log shall keep less.
    """
    finished = finish(run_id, history)
    most = MAX_STORED_RESULT if store or turn is not None else MAX_RESULT
    room = most - len(bytes(finished.result or b""))
    if content != "full" or replay_of is not None or room < 0:
        finished = msgspec.structs.replace(finished, result=None, told={})
    return encode(
        msgspec.structs.replace(
            finished,
            replay_of=replay_of,
            turn=turn,
            store=store,
            parent=parent,
            told=bounded(finished.told, room),
        )
    )


def finish(run_id: str, history: History) -> RunFinished:
    """Say how a run ended, with its result whatever its size."""
    commit = history.commit
    assert commit is not None, "the run has no commit"
    error, result, told = history.error, b"".join(history.body) or None, dict[str, Told]()
    if is_story(history.chunks):
        result, error = result_of(history.chunks)
        told = told_of(history.chunks)
    elif result is None:
        result = put_together(history.chunks, commit.usage)
    return RunFinished(
        run_id=run_id,
        status=to_status(commit.status),
        at=history.committed_at * _MICROSECOND,
        deployment=commit.deployment,
        attempts=[
            msgspec.structs.replace(attempt, count=count)
            for attempt, count in zip(history.attempts, history.counts, strict=True)
        ],
        frames=history.total,
        first_frame_at=history.first_at * _MICROSECOND,
        finish_reason=commit.finish_reason,
        usage=commit.usage,
        error=msgspec.Raw(error) if error else None,
        result=msgspec.Raw(result) if result else None,
        told=told,
    )


def to_status(text: str) -> Any:
    """A commit's status as an event has it."""
    return text if text in ("completed", "cancelled") else "failed"


class _Choice(msgspec.Struct):
    index: int = 0
    delta: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class _Chunk(msgspec.Struct):
    id: str | None = None
    object: str | None = None
    created: int | float | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None


_decode_chunks = msgspec.json.Decoder(list[_Chunk]).decode


def put_together(chunks: list[bytes], usage: bytes | msgspec.Raw | None) -> bytes | None:
    """Make of a stream's chunks the body that an unstreamed request would have got.

    None if there are none, or an upstream's chunks are not what OpenAI's are.
    """
    if not chunks:
        return None
    choices: dict[int, _Whole] = {}
    first: _Chunk | None = None
    for start in range(0, len(chunks), _DECODED_AT_ONCE):
        try:
            decoded = _decode_chunks(b"[%b]" % b",".join(chunks[start : start + _DECODED_AT_ONCE]))
        except msgspec.DecodeError:
            return None
        first = first or decoded[0]
        for chunk in decoded:
            for piece in chunk.choices or ():
                whole = choices.get(piece.index)
                if whole is None:
                    whole = choices[piece.index] = _Whole()
                whole.add(piece)
    assert first is not None
    return _to_body(first, [(index, choices[index]) for index in sorted(choices)], usage)


def _to_body(
    first: _Chunk, choices: list[tuple[int, "_Whole"]], usage: bytes | msgspec.Raw | None
) -> bytes:
    is_chat = first.object == "chat.completion.chunk"
    body: dict[str, Any] = {
        "id": first.id,
        "object": "chat.completion" if is_chat else "text_completion",
        "created": first.created,
        "model": first.model,
        "choices": [whole.to_choice(index, is_chat) for index, whole in choices],
    }
    if usage is not None:
        body["usage"] = msgspec.Raw(usage)
    for name in ("system_fingerprint", "service_tier"):
        value = getattr(first, name)
        if value is not None:
            body[name] = value
    return msgspec.json.encode(body)


class _Whole:
    """One choice while its pieces are put together."""

    __slots__ = ("finish_reason", "logprobs", "others", "texts", "tools")

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.others: dict[str, Any] = {}
        self.tools: dict[int, dict[str, Any]] = {}
        self.logprobs: dict[str, Any] | None = None
        self.finish_reason: str | None = None

    def add(self, piece: _Choice) -> None:
        """Take the next piece."""
        if piece.text:
            self._add_text("text", piece.text)
        if piece.delta:
            for name, value in piece.delta.items():
                self._add_field(name, value)
        if piece.logprobs is not None:
            self.logprobs = _extended(self.logprobs, piece.logprobs)
        if piece.finish_reason is not None:
            self.finish_reason = piece.finish_reason

    def to_choice(self, index: int, is_chat: bool) -> dict[str, Any]:
        """What the unstreamed form has for this choice."""
        texts = {name: "".join(parts) for name, parts in self.texts.items()}
        choice: dict[str, Any] = {"index": index}
        if is_chat:
            message = {"role": "assistant", "content": None, "refusal": None} | self.others | texts
            if self.tools:
                message["tool_calls"] = [self.tools[number] for number in sorted(self.tools)]
            choice["message"] = message
        else:
            choice["text"] = texts.get("text", "")
        return choice | {"logprobs": self.logprobs, "finish_reason": self.finish_reason}

    def _add_text(self, name: str, text: str) -> None:
        parts = self.texts.get(name)
        if parts is None:
            self.texts[name] = [text]
        else:
            parts.append(text)

    def _add_field(self, name: str, value: Any) -> None:
        if name == "tool_calls" and isinstance(value, list):
            for call in value:
                _merge_call(self.tools, call)
        elif name == "function_call" and isinstance(value, dict):
            call = self.others.setdefault(name, {})
            if isinstance(call, dict):
                _merge(call, value)
        elif isinstance(value, list):
            before = self.others.get(name)
            self.others[name] = [*before, *value] if isinstance(before, list) else value
        elif isinstance(value, str) and name != "role":
            self._add_text(name, value)
        elif value is not None:
            self.others[name] = value


def _merge_call(calls: dict[int, dict[str, Any]], piece: Any) -> None:
    if isinstance(piece, dict):
        number = piece.get("index", 0)
        rest = {name: value for name, value in piece.items() if name != "index"}
        _merge(calls.setdefault(number if isinstance(number, int) else 0, {}), rest)


def _merge(whole: dict[str, Any], piece: dict[str, Any]) -> None:
    """Add a piece of a call: arguments grow, names and ids are said once."""
    for name, value in piece.items():
        if isinstance(value, dict):
            inner = whole.setdefault(name, {})
            if isinstance(inner, dict):
                _merge(inner, value)
        elif name in ("arguments", "input") and isinstance(whole.get(name), str):
            whole[name] += value if isinstance(value, str) else ""
        elif value is not None:
            whole[name] = value


def _extended(whole: dict[str, Any] | None, piece: dict[str, Any]) -> dict[str, Any]:
    """Append a piece's lists (of tokens' log probabilities) to those before."""
    if whole is None:
        return {name: list(v) if isinstance(v, list) else v for name, v in piece.items()}
    for name, value in piece.items():
        if isinstance(value, list) and isinstance(whole.get(name), list):
            whole[name] += value
        elif value is not None:
            whole[name] = value
    return whole
