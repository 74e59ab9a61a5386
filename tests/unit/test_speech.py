"""What models say, however odd: calls by ids that are none, and what they think."""

from typing import Any

import msgspec
import pytest

from schemas.responses.events import Events
from schemas.responses.output import Output
from schemas.responses.speech import Speech
from schemas.responses.texts import Citations
from tests.support.responses import to_events

RUN = "run_01jd00000000000000000000aa"


def speak(*deltas: dict[str, Any], summarised: bool = False) -> tuple[Speech, Output]:
    """Hear these deltas, to the end."""
    output = Output(RUN, Events())
    speech = Speech(output, {}, Citations([], [], []), summarised=summarised)
    for delta in deltas:
        speech.hear(msgspec.json.encode({"choices": [{"index": 0, "delta": delta}]}))
    speech.close(whole=True)
    return speech, output


def call(call_id: Any, arguments: Any = "{}", **more: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"tool_calls": [{"index": 0, "id": call_id, "function": function} | more]}


@pytest.mark.parametrize("given", [None, "", "x" * 129, {"a": 1}, 7])
def test_a_call_whose_id_no_client_could_send_back_gets_one(given: Any) -> None:
    speech, _ = speak(call(given))
    (found,) = speech.calls
    assert found.chat_id.startswith("call_")
    assert len(found.chat_id) <= 128


def test_an_id_that_is_given_twice_is_given_once() -> None:
    speech, _ = speak(call("a"), call("a", index=1))
    first, second = speech.calls
    assert first.chat_id == "a"
    assert second.chat_id not in ("a", "")


def test_calls_under_one_index_are_told_apart_by_their_ids() -> None:
    speech, _ = speak(call("a", '{"x":'), call(None, "1}", index=None), call("b", "{}"))
    assert [found.arguments for found in speech.calls] == ['{"x":1}', "{}"]


@pytest.mark.parametrize("name", [None, ""])
def test_a_call_whose_name_never_comes_is_one_of_an_unknown_tool(name: str | None) -> None:
    function = {"name": name, "arguments": '{"x":'}
    rest = {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}
    nameless = {"tool_calls": [{"index": 0, "id": "a", "function": function}]}
    speech, output = speak({"content": "so"}, nameless, rest)
    (found,) = speech.calls
    assert (found.chat_id, found.name, found.arguments) == ("a", "unknown", '{"x":1}')
    assert [item["type"] for item in output.items] == ["message", "mcp_call"]


def test_arguments_that_come_before_their_name_are_kept() -> None:
    early = {"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": '{"x":'}}]}
    named = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "1}"}}]}
    speech, _ = speak(early, named)
    (found,) = speech.calls
    assert (found.chat_id, found.name, found.arguments) == ("a", "f", '{"x":1}')


def test_a_call_without_a_name_that_was_cut_off_is_none() -> None:
    output = Output(RUN, Events())
    speech = Speech(output, {}, Citations([], [], []))
    cut = {"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": "{"}}]}
    speech.hear(msgspec.json.encode({"choices": [{"index": 0, "delta": cut}]}))
    speech.close(whole=False)
    assert not output.items


def test_arguments_that_are_no_text_become_one() -> None:
    speech, _ = speak(call("a", {"x": 1}))
    assert speech.calls[0].arguments == '{"x":1}'


def test_thoughts_are_a_summary_if_one_was_asked_for() -> None:
    _, output = speak({"reasoning_content": "why"}, {"content": "so"}, summarised=True)
    thought = output.items[0]
    assert thought["summary"] == [{"type": "summary_text", "text": "why"}]
    assert thought["content"] == []
    told = [event["type"] for event in to_events(output.events.take())]
    assert told[:6] == [
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
    ]
