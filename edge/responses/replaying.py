"""Replays of responses: their tools are not called again, and they may begin at a later step."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from schemas.api.hosted import HOSTED
from schemas.api.needs import Needs
from schemas.api.responses import JsonSchemaFormat
from schemas.commands import RunInference, encode
from schemas.errors import Gone, InvalidRequest, NotFound
from schemas.events import RunFinished
from schemas.queries import AskStored, decode_answer
from schemas.queries.runs import AskRun, AskRunEvents, RunEvents, RunResult
from schemas.responses.output import Item
from schemas.responses.prepared import decode_prepared
from schemas.responses.recorded import call_id, to_recorded
from schemas.responses.story import step_id
from schemas.tools import ToolResult, decode_tool_finished, decode_tool_result

_MOST_STEPS: Final = 64
_GONE: Final = "the log does not hold {}: not recorded (JAN_LOG_CONTENT), or erased"

_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Response(msgspec.Struct):
    output: list[dict[str, Any]] = []


class _Choice(msgspec.Struct):
    message: dict[str, Any]


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class Repetition(NamedTuple):
    """What is replayed: the request, and how many items of the original's output came before."""

    request: bytes
    skipped: int


class Repeating:
    """Puts what tools said then beside a response's request; `ask` reads stored things."""

    def __init__(self, ask: AskStored) -> None:
        self._ask = ask

    async def prepare(
        self,
        command: RunInference,
        finished: RunFinished,
        request: bytes,
        *,
        at: int,
        in_words: bool,
    ) -> Repetition:
        """The request of a replay that begins at step `at`, from 1 on.

        Raises InvalidRequest if there is no such step, Gone if the log no longer has what came
        before it.
        """
        output = _output_of(finished)
        results = await self._results_of(command)
        recorded = to_recorded(command.run_id, output, results)
        skipped = 0
        if at > 1:
            said, skipped = await self._said_before(command, output, results, at)
            recorded = msgspec.structs.replace(recorded, said=said)
        fields = _split(request)
        prepared = _split(fields["prepared"])
        prepared["recorded"] = msgspec.Raw(encode(recorded))
        prepared["in_words"] = msgspec.Raw(encode(in_words))
        return Repetition(encode(fields | {"prepared": msgspec.Raw(encode(prepared))}), skipped)

    async def _results_of(self, command: RunInference) -> dict[str, ToolResult]:
        """What came of a response's calls, by their ids."""
        found: dict[str, ToolResult] = {}
        skip = 0
        while True:
            question = AskRunEvents(
                principal=command.principal, run_id=command.run_id, bodies=True, skip=skip
            )
            page = decode_answer(await self._ask("runs", "events", question), RunEvents)
            for fact in page.events:
                if fact.verb == "tool.finished" and fact.data is not None:
                    call = decode_tool_finished(fact.data)
                    if call.result is not None:
                        found[call.call_id] = decode_tool_result(call.result)
            skip += len(page.events)
            if not page.has_more or not page.events:
                return found

    async def _said_before(
        self, command: RunInference, output: list[Item], results: dict[str, ToolResult], at: int
    ) -> tuple[list[dict[str, Any]], int]:
        """What was said in the steps before `at`, and of how many items that is."""
        places = [place for place, item in enumerate(output) if item["type"] in HOSTED]
        said: list[dict[str, Any]] = []
        items = sum(item["type"] == "mcp_list_tools" for item in output)
        for number in range(1, min(at, _MOST_STEPS)):
            try:
                message = await self._message_of(command, number)
            except NotFound:
                raise _no_step(at) from None
            said.append(message)
            for call in message.get("tool_calls") or ():
                if not places:
                    raise _no_step(at)
                place = places.pop(0)
                result = results.get(call_id(command.run_id, place))
                # What was refused is no worker's, so the log has it in the output alone.
                content = result.output if result is not None else output[place].get("error")
                if content is None:
                    raise Gone(_GONE.format("what its tools said"), code="result_not_recorded")
                told = {"tool_call_id": call["id"], "content": content}
                said.append({"role": "tool", **told})
            items += _count_items(message)
        if not said or said[-1]["role"] != "tool":
            raise _no_step(at)
        return said, items

    async def _message_of(self, command: RunInference, number: int) -> dict[str, Any]:
        question = AskRun(principal=command.principal, run_id=step_id(command.run_id, number))
        step = decode_answer(await self._ask("runs", "result", question), RunResult)
        if step.result is None:
            raise Gone(_GONE.format(f"what step {number} said"), code="result_not_recorded")
        message = msgspec.json.decode(step.result, type=_Completion).choices[0].message
        return {"role": "assistant"} | message


def without_first(finished: RunFinished, items: int) -> RunFinished:
    """A response's end without the first items of its output."""
    if not items or finished.result is None:
        return finished
    response = _split(finished.result)
    response["output"] = msgspec.Raw(encode(_output_of(finished)[items:]))
    return msgspec.structs.replace(finished, result=msgspec.Raw(encode(response)))


def _output_of(finished: RunFinished) -> list[Item]:
    if finished.result is None:
        raise Gone(_GONE.format("its output"), code="result_not_recorded")
    return msgspec.json.decode(finished.result, type=_Response).output


def _count_items(message: dict[str, Any]) -> int:
    calls = message.get("tool_calls") or ()
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    return len(calls) + bool(message.get("content")) + bool(thoughts)


def _no_step(at: int) -> InvalidRequest:
    return InvalidRequest(f"the response has no step {at}", param="at")


def needs_words(find_targets: Callable[[Needs], object], request: bytes) -> bool:
    """Whether no deployment holds the answer to the schema that a request has."""
    asked = decode_prepared(request)
    if asked.text is None or not isinstance(asked.text.format, JsonSchemaFormat):
        return False
    try:
        find_targets({"json_schema": "text.format"})
    except InvalidRequest:
        return True
    return False
