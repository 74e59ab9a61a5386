"""A call's events as they come: to a stream's sink, or kept for a body.

A stream that was begun before passes over what was sent, and sees to it that it is the same.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import msgspec

from schemas.errors import UpstreamError
from workers.inference.engines.body import ERROR_LIMIT, BodyReader
from workers.inference.engines.contract import Captured, CapturedChoice, Generation, Sink
from workers.inference.engines.http import Headers
from workers.inference.engines.llama.answers import (
    ChunkWriter,
    Piece,
    Usage,
    read_step,
    to_error,
    to_piece,
)
from workers.inference.engines.llama.requests import Call
from workers.inference.engines.sse import EventSplitter

REPEAT_SECONDS = 5.0  # a plain text that takes longer to repeat is continued from its end
_LOOK_SECONDS = 0.5  # after which the speed of a repetition is known


class Unrepeatable(UpstreamError):
    """What was sent can't be made again, or not soon."""


class Taker:
    """Takes what one choice grows by."""

    usage: Usage | None = None
    reason: str | None = None
    pieces: list[Piece]

    def take(self, pieces: list[Piece]) -> None:
        """Take what one reading of the stream has brought."""
        raise NotImplementedError


class Collector(Taker):
    """Keeps all pieces, for a body."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.pieces = []

    def take(self, pieces: list[Piece]) -> None:
        """Keep them."""
        self.pieces += pieces
        self.reason = pieces[-1].finish_reason or self.reason


class Sender(Taker):
    """Sends a choice's chunks, without those that were sent before."""

    def __init__(
        self,
        call: Call,
        writer: ChunkWriter,
        send: Callable[[list[bytes]], None],
        sent: list[bytes],
    ) -> None:
        self.call = call
        self._writer = writer
        self._send = send
        self._expected = deque(sent)
        self._known = len(sent)
        self._begun = time.monotonic()
        self.impatient = False

    def take(self, pieces: list[Piece]) -> None:
        """Send them. Raises Unrepeatable."""
        chunks = [chunk for piece in pieces for chunk in self._writer.write(piece)]
        self.reason = pieces[-1].finish_reason or self.reason
        if self._expected:
            chunks = self._pass_over(chunks)
        if chunks:
            self._send(chunks)

    def is_behind(self) -> bool:
        """Whether chunks that were sent have not come up again."""
        return bool(self._expected)

    def _pass_over(self, chunks: list[bytes]) -> list[bytes]:
        for position, chunk in enumerate(chunks):
            if not self._expected:
                return chunks[position:]
            if not _is_same(chunk, self._expected.popleft()):
                raise Unrepeatable("the answer came out otherwise when it was repeated")
        if self._expected and self.impatient:
            self._judge_speed()
        return []

    def _judge_speed(self) -> None:
        seconds = time.monotonic() - self._begun
        done = self._known - len(self._expected)
        if seconds > _LOOK_SECONDS and seconds / max(1, done) * self._known > REPEAT_SECONDS:
            raise Unrepeatable("repeating the answer would take too long")


def _is_same(chunk: bytes, sent: bytes) -> bool:
    """Whether two chunks say the same; probabilities may differ in their last digits."""
    if chunk == sent:
        return True
    one, other = msgspec.json.decode(chunk), msgspec.json.decode(sent)
    for choice in (*one["choices"], *other["choices"]):
        if choice.get("logprobs") is None:
            return False
        choice["logprobs"] = None
    return bool(one == other)


class _Head(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None


class _Sent(msgspec.Struct):
    choices: list[_Head] = []


_decode_sent = msgspec.json.Decoder(_Sent).decode


class Stream:
    """All choices of a streamed answer; `before`: tokens that an earlier attempt has made."""

    def __init__(
        self, job: Generation, sink: Sink, calls: list[Call], sent: list[bytes], *, before: int = 0
    ) -> None:
        self._job = job
        self._before = before
        self.usage_sent = False
        by_choice: dict[int, list[bytes]] = {call.index: [] for call in calls}
        self._reasons: dict[int, str] = {}
        for chunk in sent:
            self._note(chunk, by_choice)
        self._senders = [
            Sender(
                call,
                ChunkWriter(job, call.index, opened=call.opened),
                sink.send,
                by_choice[call.index],
            )
            for call in calls
        ]

    def _note(self, chunk: bytes, by_choice: dict[int, list[bytes]]) -> None:
        heads = _decode_sent(chunk).choices
        self.usage_sent = self.usage_sent or not heads
        for head in heads:
            if head.index not in by_choice:
                raise UpstreamError("this answer was begun by another model and can't be continued")
            by_choice[head.index].append(chunk)
            if head.finish_reason is not None:
                self._reasons[head.index] = head.finish_reason

    def is_told(self) -> bool:
        """Whether all was sent before: every end, and the usage if it is wanted."""
        whole = len(self._reasons) == len(self._senders)
        return whole and (self.usage_sent or not self._job.include_usage)

    def takers(self, impatient: bool) -> list[Taker]:
        """Who takes each choice's pieces; the impatient give up what takes long to repeat."""
        for sender in self._senders:
            sender.impatient = impatient
        return list(self._senders)

    def reason(self) -> str | None:
        """Why the first choice ended."""
        first = self._senders[0]
        return first.reason or self._reasons.get(first.call.index)

    def usage(self) -> Usage:
        """The usage of all choices. Raises UpstreamError if one has said less than was sent."""
        if any(sender.is_behind() for sender in self._senders):
            raise UpstreamError("the answer came out shorter when it was repeated")
        usage = add_up(list(self._senders))
        prompt, made = usage.prompt_tokens - self._before, usage.completion_tokens + self._before
        return Usage(max(0, prompt), made, max(0, prompt) + made)


def add_up(takers: list[Taker]) -> Usage:
    """The usage of all choices; a prompt that several share is counted once."""
    prompts: dict[str, int] = {}
    made = 0
    for taker in takers:
        usage = taker.usage or Usage()
        call: Call = taker.call  # type: ignore[attr-defined]
        prompts[repr(call.fields.get("prompt"))] = usage.prompt_tokens
        made += usage.completion_tokens
    read = sum(prompts.values())
    return Usage(read, made, read + made)


def find_plain(calls: list[Call], captured: Captured | None) -> CapturedChoice | None:
    """The text that was sent, if it is one that a model can go on with; else None."""
    fields = calls[0].fields
    if captured is None or len(calls) > 1 or fields.get("logprobs"):
        return None
    form = fields.get("response_format")
    if isinstance(form, dict) and form.get("type", "text") != "text":
        return None
    if fields.get("tools") and fields.get("tool_choice") != "none":
        return None
    choice = captured.choices().get(0)
    if choice is None or not choice.continuable or not choice.text or choice.finish_reason:
        return None
    return replace(choice)


class StreamReader:
    """Reads a call's events."""

    def __init__(self, job: Generation, call: Call, taker: Taker) -> None:
        self._job = job
        self._index = call.index
        self._taker = taker
        self._splitter = EventSplitter()
        self._other: BodyReader | None = None
        self._done = False

    def on_head(self, status: int, headers: Headers) -> None:
        """Look whether a stream follows."""
        if status != 200:
            self._other = BodyReader(ERROR_LIMIT)
            self._other.on_head(status, headers)

    def on_data(self, data: bytes) -> bool:
        """Hand on what these bytes complete, in one piece."""
        if self._other is not None:
            return self._other.on_data(data)
        self._take(self._splitter.feed(data))
        return self._done

    def finish(self) -> None:
        """Judge the answer now that it has ended."""
        if self._other is not None:
            raise to_error(self._other.body(), self._job)
        if self._taker.reason is None or self._taker.usage is None:
            raise UpstreamError("llama.cpp's stream ended before its answer did")

    def _take(self, payloads: list[bytes]) -> None:
        pieces = []
        for payload in payloads:
            if payload == b"[DONE]":
                self._done = True
                break
            step = read_step(payload)
            if step.error is not None and bytes(step.error) != b"null":
                raise to_error(payload, self._job)
            self._taker.usage = step.usage or self._taker.usage
            piece = to_piece(step, self._job.run_id, self._index)
            if piece is not None and piece.says_something():
                pieces.append(piece)
        if pieces:
            self._taker.take(pieces)
