"""One streamed run: vLLM's events become chunks under our names, with the tokens beside them."""

import re
from collections import Counter
from typing import Any

import msgspec

from schemas.errors import UpstreamError
from schemas.raw import OptionalRaw
from workers.inference.engines.contract import (
    BACKLOG_LIMIT,
    Captured,
    Generation,
    Outcome,
    Sink,
)
from workers.inference.engines.faults import Redactor, to_stream_error
from workers.inference.engines.vllm_serving.pieces import decode_pieces, encode_pieces
from workers.inference.engines.vllm_serving.tap import Tap

_DATA = "data: "
_DONE = "[DONE]"
_CHOICES = b',"choices":'
_OTHERS = -1  # the place of chunks that belong to no choice
_PROMPTS = ("input_tokens", "input_text", "prompt_token_ids")  # as vLLM calls them
_DETAILS = re.compile(r" \(parameter=.*\)$")
_OBJECTS = {"chat": "chat.completion.chunk", "completion": "text_completion"}

_encode = msgspec.json.Encoder().encode


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None


class _Step(msgspec.Struct):
    choices: list[_Choice]
    usage: OptionalRaw = None


_decode_step = msgspec.json.Decoder(_Step).decode


class Stream:
    """Takes a run's events. Chunks that an earlier attempt has sent are passed over."""

    def __init__(self, job: Generation, sink: Sink, client: Any) -> None:
        self._job = job
        self._sink = sink
        self._head = _head(job)
        self._captured = job.captured or Captured()
        self._passing = Counter(_place(chunk) for chunk in self._captured.chunks)
        self._passed: list[bytes] = []
        self._chunks: list[bytes] = []
        self._finished: dict[int, str] = {}
        self._usage: bytes | None = None
        self.tap = Tap(client, job.run_id, _pieces(self._captured), self._between)
        if self._captured.chunks and bytes(job.body.get("use_beam_search", b"")) == b"true":
            raise UpstreamError("this answer can't be continued: it is of a beam search")

    async def carry(self, events: Any) -> Outcome:
        """Carry the events over, to the end. Raises what the events say went wrong."""
        async for event in events:
            payload = event.removeprefix(_DATA).rstrip()
            if payload != _DONE:
                self._take(payload.encode())
        self._check_passed()
        self._flush()
        if not self._finished:
            raise UpstreamError("vLLM ended the stream before the answer")
        return Outcome(self._usage, self._finished.get(min(self._finished)))

    async def _between(self) -> None:
        self._flush()
        if self._sink.backlog() > BACKLOG_LIMIT:
            await self._sink.drain()

    def _flush(self) -> None:
        """Send what one step of the engine has brought, with its tokens."""
        if self._chunks:
            self._sink.send(self._chunks, encode_pieces(self.tap.made))
            self._chunks = []
            self.tap.made.clear()

    def _take(self, payload: bytes) -> None:
        if payload.startswith(b'{"error"'):
            self._flush()
            raise name_field(to_stream_error(payload, Redactor(())), self._job)
        step = _decode_step(payload)
        for choice in step.choices:
            if choice.finish_reason is not None:
                self._finished[choice.index] = choice.finish_reason
        if not step.choices:
            self._usage = None if step.usage is None else bytes(step.usage)
            if not self._job.include_usage:
                return
        chunk = self._head + payload[payload.index(_CHOICES) :]
        place = step.choices[0].index if step.choices else _OTHERS
        if self._passing[place]:
            self._passing[place] -= 1
            self._passed.append(chunk)
            return
        if self._passed and not self._passing.total():
            self._check_passed()
        self._chunks.append(chunk)

    def _check_passed(self) -> None:
        """Make sure that what was passed over is what was sent."""
        passed, self._passed = self._passed, []
        if not passed:
            return
        sent = self._captured.choices()
        again = Captured(passed).choices()
        for index, choice in sent.items():
            if index not in again or again[index].text != choice.text:
                raise UpstreamError("this answer can't be continued: another model began it")


def name_field(error: UpstreamError, job: Generation) -> UpstreamError:
    """Name the request's field where vLLM names its own part, or only says it in the text."""
    error.message = _DETAILS.sub("", error.message)
    if error.param in _PROMPTS:
        error.param = next(
            (name for name in ("messages", "prompt", "input") if name in job.body), None
        )
    first = error.message.split(" ", 1)[0]
    if error.param is None and first in job.body:
        error.param = first
    return error


def _head(job: Generation) -> bytes:
    """A chunk up to its choices, under our names."""
    fields = {
        "id": job.public_id,
        "object": _OBJECTS[job.kind],
        "created": job.created,
        "model": job.model,
    }
    return _encode(fields)[:-1]


def _place(chunk: bytes) -> int:
    try:
        choices = _decode_step(chunk).choices
    except msgspec.DecodeError:
        raise UpstreamError("this answer can't be continued: another engine began it") from None
    return choices[0].index if choices else _OTHERS


def _pieces(captured: Captured) -> Any:
    try:
        pieces = decode_pieces(captured.state)
    except msgspec.DecodeError:
        pieces = {}
    if captured.chunks and not pieces:
        raise UpstreamError("this answer can't be continued: another engine began it")
    return pieces
