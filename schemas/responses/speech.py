"""One step's stream, chat chunk by chat chunk, as items of the response's output."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas.raw import OptionalRaw
from schemas.responses.calls import ToolCall
from schemas.responses.output import Output
from schemas.responses.story import Offer
from schemas.responses.texts import Citations, Text

_REASONING: Final = ("reasoning_text", "summary_text")
_MOST_CALLS: Final = 128  # of one step; what a model calls beyond them is not heard
_LONGEST: Final = 128  # characters of a call's id and name, as in what clients send
_NAMELESS: Final = "unknown"


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _Custom(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: Any = None
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
    """What a model says in a step. `spoken` is its text, `calls` are its calls in their order.

    What it thinks is told as a summary if `summarised`.
    """

    def __init__(
        self,
        output: Output,
        offers: Mapping[str, Offer],
        citations: Citations,
        *,
        summarised: bool = False,
    ) -> None:
        self.calls: list[ToolCall] = []
        self.spoken = ""
        self._output = output
        self._offers = offers
        self._citations = citations
        self._thought = _REASONING[summarised]
        self._text: Text | None = None
        self._by_index: dict[int, tuple[Any, ToolCall]] = {}  # with the id that the model gave
        self._nameless: dict[int, list[_Call]] = {}  # pieces of calls whose name has not come

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
        if whole:
            for pieces in list(self._nameless.values()):
                self._call(_named(pieces[-1]))
        self._close_text("completed" if whole else "incomplete")
        for call in self.calls:
            call.close(whole=whole)

    def _say(self, delta: _Delta, logprobs: msgspec.Raw | None) -> None:
        thought = delta.reasoning_content or delta.reasoning
        if thought:
            self._write(self._thought, thought)
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
        if before is not None and self._thought not in (before.kind, kind):
            self._end_part()
            return Text(self._output, before.where, kind)
        self._close_text("completed")
        item: dict[str, Any] = {"type": "message", "role": "assistant", "content": []}
        if kind == self._thought:
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
        """Take a piece of a call: a new one begins with its name, under an index or an id."""
        told, index = piece.function or piece.custom, piece.index or 0
        known = self._by_index.get(index)
        is_new = known is None or (piece.id and piece.id != known[0])
        before: list[_Call] = []
        if is_new and told is not None and told.name:
            before = self._nameless.pop(index, before)
            given = [one.id for one in (piece, *before) if one.id]
            known = self._begin_call(given[0] if given else None, told.name)
        elif known is None and told is not None:
            self._nameless.setdefault(index, []).append(piece)
        if known is None:
            return
        self._by_index[index] = known
        for one in (*before, piece):
            if arguments := _to_arguments(one):
                known[1].add(_to_text(arguments))

    def _begin_call(self, given: Any, name: str) -> tuple[Any, ToolCall] | None:
        if len(self.calls) >= _MOST_CALLS:
            return None
        self._close_text("completed")
        usable = isinstance(given, str) and 0 < len(given) <= _LONGEST
        if not usable or any(call.chat_id == given for call in self.calls):
            chat_id = self._output.new_call_id()
        else:
            chat_id = given
        call = ToolCall(self._output, chat_id, name[:_LONGEST], self._offers.get(name))
        self.calls.append(call)
        return given, call


def _named(piece: _Call) -> _Call:
    """The end of a call that was never given a name."""
    return _Call(piece.index, piece.id, _Function(_NAMELESS))


def _to_arguments(piece: _Call) -> Any:
    if piece.custom is not None and piece.custom.input:
        return piece.custom.input
    return piece.function.arguments if piece.function is not None else None


def _to_text(arguments: Any) -> str:
    """Arguments as a text; some upstreams send the object itself."""
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


def _to_logprobs(given: msgspec.Raw) -> list[dict[str, Any]]:
    try:
        found = _decode_logprobs(given)
    except msgspec.DecodeError:
        return []
    return found.content or [] if found is not None else []
