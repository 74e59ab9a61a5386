"""The fold that makes one response of the loop's entries and its steps' chunks.

In the order of the entries; at a `step` the frames of that run come first, up to their commit. It
is pure: an edge that tells events, one that resumes, and a worker that goes on after another's
death have the same items under the same ids, and the same events under the same numbers.
"""

from typing import Any

import msgspec

from schemas.api.hosted import Told
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
    Judged,
    Offer,
    Offered,
    Progressed,
    Returned,
    Stepped,
    Trimmed,
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
        self.approvals = 0  # of the client's, that were taken
        self.steps = 0  # that have ended
        self.corrections = 0
        self.trimmed = 0  # messages, the oldest ones, that the model is not shown
        self.trims = 0  # steps that were refused for what they had to read
        self.cut: str | None = None  # why the last step stopped early: incomplete_details.reason
        self.calls: list[ToolCall] = []  # of the last step
        self.called: dict[str, str] = {}  # item → the call's own id, of those given to workers
        self.results: dict[str, ToolResult] = {}  # item → what came of it
        self.told: dict[str, Told] = {}  # item → what it does not say of its call
        self.messages: list[Message] = []  # said in earlier steps, as chat has it
        self._citations = Citations([], [], [])
        self._speech: Speech | None = None
        self.held: list[bytes] | None = None  # chunks of a step that the loop is to look at
        self._said_whole = False
        self._include: frozenset[str] = frozenset()
        self._summarised = False

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
                self._speech = self._to_speech(self.output)
                self.calls = []
                self.held = [] if self.begun is not None and self.begun.judged else None
            case Trimmed(messages):
                self._trim(messages)
            case Judged(correction):
                self._judge(correction)
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
        if self.held is not None:
            self.held.append(chunk)
        else:
            self._speech.hear(chunk)

    @property
    def to_judge(self) -> Speech | None:
        """What the last step said, if the loop is to look at it before it is told."""
        if self.held is None or self.step is not None or self._speech is None:
            return None
        speech = self._to_speech(Output("", Events()))
        for chunk in self.held:
            speech.hear(chunk)
        speech.close(whole=self._said_whole)
        return speech

    def end_step(
        self, status: str, finish_reason: str | None, usage: bytes | msgspec.Raw | None
    ) -> None:
        """The step's frames are over."""
        self.step = None
        self.cut = _INCOMPLETE.get(finish_reason or "")
        self.usage.add(usage)
        self.steps += 1
        self._said_whole = status == "completed" and self.cut is None
        if self.held is None:
            self._close_speech()

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
        self._summarised = bool((response.get("reasoning") or {}).get("summary"))
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
        self.approvals += 1
        if not approved.approve:
            return  # the input says so
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
        # One message for all: an engine wants the results right after the calls.
        self.messages = [_to_message("", self.calls)]

    def _trim(self, messages: int) -> None:
        """Forget a step that was refused and has said nothing."""
        self.trimmed, self.trims = messages, self.trims + 1
        if self.held is None:
            self.messages.pop()
        else:
            self.held, self._speech = None, None

    def _judge(self, correction: str | None) -> None:
        """Tell what a step has said, or keep it between the loop and the model."""
        assert self._speech is not None
        held, self.held = self.held or [], None
        if correction is None:
            for chunk in held:
                self._speech.hear(chunk)
            self._close_speech()
            return
        self.held = held
        speech = self.to_judge
        assert speech is not None
        self.held, self._speech = None, None
        self.corrections += 1
        self.messages.append(_to_message(speech.spoken, []))
        self.messages.append(_to_said(correction))

    def _to_speech(self, output: Output) -> Speech:
        return Speech(output, self.offers or {}, self._citations, summarised=self._summarised)

    def _close_speech(self) -> None:
        assert self._speech is not None
        speech, self._speech = self._speech, None
        speech.close(whole=self._said_whole)
        self.calls = speech.calls if self._said_whole else []
        self.messages.append(_to_message(speech.spoken, self.calls))
        for call in self.calls:
            self.told[call.item_id] = Told(self.steps)

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
                self.told[item] = Told(self.steps, call.unsaid(result), call.made(result))
                if not self.pending:
                    self._tell_results()

    def _tell_results(self) -> None:
        """Let the model have what came of its calls: in their order, however they came back."""
        for call in self.calls:
            if not call.is_clients:
                result = self.results[call.item_id]
                self._show(result)
                told = {"tool_call_id": call.chat_id, "content": result.output}
                self.messages.append({"role": "tool", **told})

    def _show(self, result: ToolResult) -> None:
        """Note what the model can point to from now on."""
        before = self._citations
        self._citations = Citations(
            [*before.all, *result.citations],
            result.citations or before.last,
            [*before.files, *result.artifacts],
        )

    def _end(self, ended: Ended) -> None:
        self.ended = ended
        response: Item = msgspec.json.decode(ended.response)
        # OpenAI has no event for one that was cancelled; what it had come to stays.
        kind = response["status"] if response["status"] in _LAST else "incomplete"
        self.events.tell(f"response.{kind}", response=response)


def _to_said(text: str) -> Message:
    return {"role": "user", "content": text}


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
