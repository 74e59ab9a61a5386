"""A chat stream as Anthropic's events: a pure fold over the run's frames, from the first one on.

An event's id is its frame's index; where a frame makes several events, those before the last have
`<index>.<number>`. So whoever reads on from any event gets neither too little nor anything twice.
"""

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from edge.messages.answer import (
    Call,
    Choice,
    Chunk,
    Function,
    Said,
    Usage,
    is_thought,
    read_chunk,
    to_frame,
    to_stop,
    to_thought,
    to_usage,
)
from edge.messages.errors import told_to_wire
from schemas import frames
from schemas.errors import UpstreamError

Json = dict[str, Any]

_DONE = b"[DONE]"
_encode = msgspec.json.Encoder().encode


class Position(NamedTuple):
    """The first event that a reader has not got: its frame, and its number therein."""

    frame: int = 0
    event: int = 0


START: Final = Position()


@dataclass(slots=True)
class _Tool:
    """A tool call while it comes."""

    id: str = ""
    name: str = ""
    waiting: str = ""  # arguments that were not told yet, as another call is being told
    told: str = ""
    closed: bool = False

    def is_whole(self) -> bool:
        """Whether its arguments are complete."""
        try:
            msgspec.json.decode(self.told)
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


@dataclass(slots=True)
class MessageStream:
    """Translates a run's events; told `after` which position, it leaves out what comes before."""

    run_id: str
    after: Position = START
    _begun: bool = False
    _index: int = -1  # of the block that was opened last
    _open: str | None = None  # that block's type, while it is open
    _tool: int = -1  # which call is being told
    _tools: dict[int, _Tool] = field(default_factory=dict)
    _choice: Choice = field(default_factory=Choice)
    _usage: Usage | None = None

    def feed(self, data: bytes) -> bytes:
        """Translate whole events of the chat stream."""
        return b"".join([self._frame(event) for event in frames.split_events(data)])

    def _frame(self, event: bytes) -> bytes:
        number = int(event[4 : event.index(b"\n")])
        events = self._translate(frames.chunk_of(event))
        if number < self.after.frame:
            return b""
        skipped = self.after.event if number == self.after.frame else 0
        last = len(events) - 1
        return b"".join(
            [
                _to_sse(told, b"%d" % number if at == last else b"%d.%d" % (number, at + 1))
                for at, told in enumerate(events)
                if at >= skipped
            ]
        )

    def _translate(self, chunk: bytes) -> list[Json]:
        if chunk == _DONE:
            return [*self._begin(""), *self._end()]
        found = read_chunk(chunk)
        if found.error is not None and bytes(found.error) != b"null":
            return [told_to_wire(chunk)]
        return [*self._begin(found.model), *self._add(found)]

    def _begin(self, model: str) -> list[Json]:
        if self._begun:
            return []
        self._begun = True
        message = to_frame(self.run_id, model)
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def _add(self, chunk: Chunk) -> list[Json]:
        self._usage = chunk.usage or self._usage
        if not chunk.choices:
            return []
        choice = chunk.choices[0]
        if choice.finish_reason is not None:
            self._choice = choice
        return self._say(choice.delta) if choice.delta is not None else []

    def _say(self, said: Said) -> list[Json]:
        events: list[Json] = []
        details = [detail for detail in said.reasoning_details or () if is_thought(detail)]
        if said.thought() and not details:
            events += self._open_block("thinking", {"thinking": "", "signature": ""})
            events.append(self._delta("thinking_delta", thinking=said.thought()))
        for detail in details:
            events += self._think(to_thought(detail))
        if said.text():
            events += self._open_block("text", {"text": ""})
            events.append(self._delta("text_delta", text=said.text()))
        for call in said.tool_calls or ():
            events += self._call(call)
        return events

    def _think(self, block: Json) -> list[Json]:
        """A thought that is whole now; its text may have been told before."""
        if block["type"] == "redacted_thinking":
            opened = self._open_block("redacted_thinking", {"data": block["data"]})
            return [*opened, *self._close()]
        events: list[Json] = []
        if self._open != "thinking":
            events += self._open_block("thinking", {"thinking": "", "signature": ""})
            if block["thinking"]:
                events.append(self._delta("thinking_delta", thinking=block["thinking"]))
        if block["signature"]:
            events.append(self._delta("signature_delta", signature=block["signature"]))
        return [*events, *self._close()]

    def _call(self, piece: Call) -> list[Json]:
        """A piece of a tool call. Blocks come one after the other, so another's pieces wait."""
        tool = self._tools.setdefault(piece.index, _Tool())
        function = piece.function or Function()
        tool.id = piece.id or tool.id
        tool.name = function.name or tool.name
        tool.waiting += function.arguments or ""
        if tool.closed and tool.waiting:
            raise UpstreamError("the engine went on with a tool call after its end")
        busy = self._tools.get(self._tool)
        if busy is not None and busy is not tool and not busy.closed and not busy.is_whole():
            return []
        return self._tell(piece.index)

    def _tell(self, number: int) -> list[Json]:
        tool = self._tools[number]
        events: list[Json] = []
        if tool.closed:
            return []
        if self._tool != number:
            events += self._close()
            self._tool = number
            block = {"id": tool.id, "name": tool.name, "input": {}}
            events += self._open_block("tool_use", block)
        if tool.waiting:
            events.append(self._delta("input_json_delta", partial_json=tool.waiting))
            tool.told += tool.waiting
            tool.waiting = ""
        return events

    def _end(self) -> list[Json]:
        events: list[Json] = []
        for number, tool in self._tools.items():
            if tool.waiting:
                events += self._tell(number)
        events += self._close()
        reason, sequence = to_stop(self._choice)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        usage = to_usage(self._usage)
        events.append({"type": "message_delta", "delta": delta, "usage": usage})
        return [*events, {"type": "message_stop"}]

    def _open_block(self, kind: str, fields: Json) -> list[Json]:
        """Open a block, unless one of this type is open."""
        if self._open == kind:
            return []
        events = self._close()
        self._index += 1
        self._open = kind
        block = {"type": kind, **fields}
        return [
            *events,
            {"type": "content_block_start", "index": self._index, "content_block": block},
        ]

    def _close(self) -> list[Json]:
        if self._open is None:
            return []
        if self._open == "tool_use":
            self._tools[self._tool].closed = True
        self._open = None
        return [{"type": "content_block_stop", "index": self._index}]

    def _delta(self, kind: str, **fields: str) -> Json:
        delta = {"type": kind, **fields}
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def _to_sse(event: Json, number: bytes) -> bytes:
    return b"event: %b\nid: %b\ndata: %b\n\n" % (event["type"].encode(), number, _encode(event))
