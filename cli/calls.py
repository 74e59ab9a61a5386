"""Calls of tools that a run makes, out of what the log tells of them."""

from dataclasses import dataclass, field
from typing import Final

from bus import Stored
from schemas.tools import ToolFinished, decode_tool_finished, decode_tool_started

OF_CALLS: Final = ("events.tool.", "events.erased.tool.")  # how the subjects of their facts begin


@dataclass(slots=True)
class Call:
    """A call of a tool, as far as the log tells of it."""

    call_id: str
    tool: str
    began: float
    attempts: int = 1
    worker: str = ""
    end: ToolFinished | None = None


@dataclass(slots=True)
class Calls:
    """The calls of one run, in the order of their beginnings."""

    parent: str
    found: dict[str, Call] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether there is one that has not ended, as far as is known."""
        return any(call.end is None for call in self.found.values())

    def on_event(self, stored: Stored) -> None:
        """Take in a fact about a call; others' tell nothing. Raises DecodeError."""
        if stored.subject.startswith("events.tool.started."):
            began = decode_tool_started(stored.data)
            if began.parent != self.parent:
                return
            call = self.found.setdefault(began.call_id, Call(began.call_id, began.tool, began.at))
            call.attempts, call.worker = max(call.attempts, began.attempt), began.worker
            return
        end = decode_tool_finished(stored.data)
        if end.parent != self.parent:
            return
        call = self.found.setdefault(end.call_id, Call(end.call_id, end.tool, end.at - end.seconds))
        call.attempts, call.end = max(1, end.attempts), end
