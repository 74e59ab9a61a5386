"""The fold that makes one response of the loop's entries and its steps' chunks.

In the order of the entries; at a `step` the frames of that run come first, up to their commit. It
is pure: an edge that tells events, one that resumes, and a worker that goes on after another's
death have the same items under the same ids, and the same events under the same numbers.
"""

from typing import Any

import msgspec

from schemas.responses.calls import ToolCall
from schemas.responses.events import Events
from schemas.responses.output import Item, Output
from schemas.responses.speech import Speech
from schemas.responses.story import (
    Added,
    Approved,
    Begun,
    Called,
    Ended,
    Offer,
    Offered,
    Progressed,
    Returned,
    Stepped,
    decode_entry,
)
from schemas.responses.texts import Citations
from schemas.responses.usage import UsageSum
from schemas.tools import ToolResult, decode_tool_result

Message = dict[str, Any]

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponseFold:
    """A response as far as it has come. `after` is the last event that the reader has."""

    def __init__(self, run_id: str, after: int = -1) -> None:
        self.events = Events(after)
        self.output = Output(run_id, self.events)
        self.usage = UsageSum()
        self.begun: Begun | None = None
        self.ended: Ended | None = None
        self.offers: dict[str, Offer] | None = None
        self.step: Stepped | None = None  # whose frames come next
        self.steps = 0  # that have ended
        self.cut: str | None = None  # why the last step stopped early: incomplete_details.reason
        self.calls: list[ToolCall] = []  # of the last step
        self.called: dict[str, str] = {}  # item → the call's own id, of those given to workers
        self.results: dict[str, ToolResult] = {}  # item → what came of it
        self.messages: list[Message] = []  # said in earlier steps, as chat has it
        self._citations = Citations([], [])
        self._speech: Speech | None = None
        self._include: frozenset[str] = frozenset()

    @property
    def items(self) -> list[Item]:
        """The output so far."""
        return self.output.items

    @property
    def pending(self) -> list[ToolCall]:
        """The calls that the server is to answer, and has not."""
        return [
            call for call in self.calls if not call.is_clients and call.item_id not in self.results
        ]

    def take(self) -> bytes:
        """The events since the last time."""
        return self.events.take()

    def feed(self, entry: bytes) -> None:
        """Take the loop's next entry. Raises msgspec.DecodeError."""
        match decode_entry(entry):
            case Begun() as begun:
                self._begin(begun)
            case Offered(offers):
                self.offers = {offer.name: offer for offer in offers}
            case Added(item):
                self._add(msgspec.json.decode(item))
            case Approved() as approved:
                self._approve(approved)
            case Stepped() as step:
                self.step = step
                self._speech = Speech(self.output, self.offers or {}, self._citations)
                self.calls = []
            case Called(calls):
                self._dispatch({call.item: call.call_id for call in calls})
            case Progressed(item, progress):
                self._progress(item, msgspec.json.decode(progress))
            case Returned(item, result):
                self._give_back(item, decode_tool_result(result))
            case Ended() as ended:
                self._end(ended)

    def hear(self, chunk: bytes) -> None:
        """Take the next chunk of the step's frames."""
        assert self._speech is not None
        self._speech.hear(chunk)

    def end_step(
        self, status: str, finish_reason: str | None, usage: bytes | msgspec.Raw | None
    ) -> None:
        """The step's frames are over."""
        assert self._speech is not None
        speech, self._speech, self.step = self._speech, None, None
        self.cut = _INCOMPLETE.get(finish_reason or "")
        whole = status == "completed" and self.cut is None
        speech.close(whole=whole)
        self.usage.add(usage)
        self.steps += 1
        self.calls = list(speech.calls.values()) if whole else []
        self.messages.append(_to_message(speech.spoken, self.calls))

    def to_messages(self) -> list[Message]:
        """What was said since the request, the results of its tools included."""
        return self.messages

    def to_response(self, status: str, at: float, **fields: Any) -> Item:
        """The response object as it ends now."""
        assert self.begun is not None
        response: Item = msgspec.json.decode(self.begun.response)
        completed = int(at) if status == "completed" else None
        told = {"status": status, "completed_at": completed, "output": self.items}
        return response | told | {"usage": self.usage.to_wire()} | fields

    def _begin(self, begun: Begun) -> None:
        self.begun = begun
        self.events.obfuscate = begun.obfuscate
        self._include = frozenset(begun.include)
        response: Item = msgspec.json.decode(begun.response)
        if begun.queued:
            queued = response | {"status": "queued"}
            self.events.tell("response.created", response=queued)
            self.events.tell("response.queued", response=queued)
        else:
            self.events.tell("response.created", response=response)
        self.events.tell("response.in_progress", response=response)

    def _add(self, item: Item) -> None:
        place = self.output.begin(item)
        if item["type"] == "mcp_list_tools":
            self.output.tell(place, "response.mcp_list_tools.in_progress")
            failed = item.get("error") is not None
            self.output.tell(
                place, f"response.mcp_list_tools.{'failed' if failed else 'completed'}"
            )
        self.output.end(place)

    def _approve(self, approved: Approved) -> None:
        offer = (self.offers or {}).get(approved.name)
        call = ToolCall(
            self.output,
            f"call_{approved.request}",
            approved.name,
            offer,
            approved=approved.request,
        )
        call.add(approved.arguments)
        call.close(whole=True)
        self.calls.append(call)
        self.messages.append(_to_message("", [call]))

    def _dispatch(self, called: dict[str, str]) -> None:
        self.called |= called
        for call in self.pending:
            if call.item_id in called:
                call.dispatch()

    def _progress(self, item: str, progress: dict[str, Any]) -> None:
        for call in self.pending:
            if call.item_id == item:
                call.progress(progress)

    def _give_back(self, item: str, result: ToolResult) -> None:
        for call in self.pending:
            if call.item_id == item:
                call.give_back(result, self._include)
                self.results[item] = result
                if result.citations:
                    shown = [*self._citations.all, *result.citations]
                    self._citations = Citations(shown, result.citations)
                told = {"tool_call_id": call.chat_id, "content": result.output}
                self.messages.append({"role": "tool", **told})

    def _end(self, ended: Ended) -> None:
        self.ended = ended
        response: Item = msgspec.json.decode(ended.response)
        # OpenAI has no event for one that was cancelled; what it had come to stays.
        kind = response["status"] if response["status"] in _LAST else "incomplete"
        self.events.tell(f"response.{kind}", response=response)


_LAST = ("completed", "failed", "incomplete")


def _to_message(spoken: str, calls: list[ToolCall]) -> Message:
    message: Message = {"role": "assistant", "content": spoken or None}
    if calls:
        message["tool_calls"] = [
            {
                "id": call.chat_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return message
