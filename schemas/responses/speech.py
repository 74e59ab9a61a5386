"""One step's stream, chat chunk by chat chunk, as items of the response's output."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas.raw import OptionalRaw
from schemas.responses.calls import ToolCall
from schemas.responses.output import Output
from schemas.responses.story import Offer
from schemas.responses.texts import Citations, Text

_REASONING: Final = "reasoning_text"
_MOST_CALLS: Final = 128  # of one step; what a model calls beyond them is not heard


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Custom(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    logprobs: OptionalRaw = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


class _Logprobs(msgspec.Struct):
    content: list[dict[str, Any]] | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_logprobs = msgspec.json.Decoder(_Logprobs | None).decode


class Speech:
    """What a model says in a step. `spoken` is its text, `calls` are its calls in their order."""

    def __init__(self, output: Output, offers: Mapping[str, Offer], citations: Citations) -> None:
        self.calls: dict[int, ToolCall] = {}
        self.spoken = ""
        self._output = output
        self._offers = offers
        self._citations = citations
        self._text: Text | None = None

    def hear(self, chunk: bytes) -> None:
        """Take the next chunk. What is no chunk of OpenAI's form says nothing."""
        try:
            choices = _decode_chunk(chunk).choices
        except msgspec.DecodeError:
            return
        for choice in choices:
            if choice.index == 0 and choice.delta is not None:
                self._say(choice.delta, choice.logprobs)

    def close(self, *, whole: bool) -> None:
        """The step has ended; `whole`: not in the middle of something."""
        self._close_text("completed" if whole else "incomplete")
        for call in self.calls.values():
            call.close(whole=whole)

    def _say(self, delta: _Delta, logprobs: msgspec.Raw | None) -> None:
        thought = delta.reasoning_content or delta.reasoning
        if thought:
            self._write(_REASONING, thought)
        if delta.content:
            probabilities = _to_logprobs(logprobs) if logprobs is not None else ()
            self._write("output_text", delta.content, probabilities)
        if delta.refusal:
            self._write("refusal", delta.refusal)
        for call in delta.tool_calls or ():
            self._call(call)

    def _write(self, kind: str, piece: str, logprobs: Any = ()) -> None:
        text = self._text
        if text is None or text.kind != kind:
            text = self._text = self._open(kind)
        encoded = msgspec.json.encode(logprobs) if logprobs else b""
        text.add(piece, logprobs, encoded)

    def _open(self, kind: str) -> Text:
        """Begin a part, in the open message if it belongs there."""
        before = self._text
        if before is not None and _REASONING not in (before.kind, kind):
            self._end_part()
            return Text(self._output, before.where, kind)
        self._close_text("completed")
        item: dict[str, Any] = {"type": "message", "role": "assistant", "content": []}
        if kind == _REASONING:
            item = {"type": "reasoning", "summary": [], "content": []}
        return Text(self._output, self._output.begin(item | {"status": "in_progress"}), kind)

    def _close_text(self, status: str) -> None:
        if self._text is not None:
            where = self._text.where
            self._end_part()
            self._output.end(where, status)

    def _end_part(self) -> None:
        assert self._text is not None
        text = self._text.close(self._citations)
        if self._text.kind == "output_text":
            self.spoken += text
        self._text = None

    def _call(self, piece: _Call) -> None:
        call = self.calls.get(piece.index)
        told = piece.function or piece.custom
        if call is None:
            if told is None or not told.name or len(self.calls) >= _MOST_CALLS:
                return
            self._close_text("completed")
            chat_id = piece.id or f"call_{len(self._output.items)}"
            offer = self._offers.get(told.name)
            call = self.calls[piece.index] = ToolCall(self._output, chat_id, told.name, offer)
        arguments = piece.function.arguments if piece.function is not None else None
        if piece.custom is not None and piece.custom.input:
            arguments = piece.custom.input
        if arguments:
            call.add(arguments)


def _to_logprobs(given: msgspec.Raw) -> list[dict[str, Any]]:
    try:
        found = _decode_logprobs(given)
    except msgspec.DecodeError:
        return []
    return found.content or [] if found is not None else []
