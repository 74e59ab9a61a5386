"""Calls that the server answered, as the chat that they were, in the form that engines take."""

from typing import Any

import msgspec
import pytest

from schemas.api.history import to_messages
from schemas.api.hosted import MAX_TOLD, Told, bounded
from schemas.events import RunFinished, encode
from workers.persistence.erasure import to_content_free

ASKED: dict[str, Any] = {
    "type": "message",
    "role": "user",
    "content": [{"type": "input_text", "text": "go"}],
}
THOUGHT: dict[str, Any] = {"type": "reasoning", "summary": [], "content": []}
FUNCTION: dict[str, Any] = {
    "type": "function_call",
    "call_id": "call_f",
    "name": "f",
    "arguments": "{}",
    "status": "completed",
}
ANSWER: dict[str, Any] = {"type": "function_call_output", "call_id": "call_f", "output": "f said"}


def mcp(name: str, **more: Any) -> dict[str, Any]:
    told = {"server_label": "srv", "name": name, "arguments": "{}", "output": f"{name} said"}
    return {"type": "mcp_call", "id": f"mcp_{name}", "status": "completed"} | told | more


def hosted(kind: str, output: str | None, **more: Any) -> dict[str, Any]:
    return {"type": kind, "id": "h_1", "status": "completed", "told": {"output": output}} | more


def steps(*items: dict[str, Any]) -> list[Any]:
    """The model's messages as lists of the names that it calls, and answers as their texts."""
    return [
        [call["function"]["name"] for call in message["tool_calls"]]
        if "tool_calls" in message
        else message["content"]
        for message in to_messages(items)
    ]


def test_calls_of_one_step_are_one_message_and_each_is_answered() -> None:
    messages = to_messages([ASKED, mcp("a"), mcp("b", output=None, error="b broke")])
    assert messages[1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": f"mcp_{n}", "type": "function", "function": {"name": n, "arguments": "{}"}}
                for n in "ab"
            ],
        },
        {"role": "tool", "tool_call_id": "mcp_a", "content": "a said"},
        {"role": "tool", "tool_call_id": "mcp_b", "content": "b broke"},
    ]


def test_calls_of_different_steps_are_messages_of_their_own() -> None:
    told = [mcp("a", told={"step": 1}), mcp("b", told={"step": 2}), mcp("c", told={"step": 2})]
    assert steps(*told) == [["a"], "a said", ["b", "c"], "b said", "c said"]
    assert steps(mcp("a"), THOUGHT, mcp("b")) == [["a"], "a said", ["b"], "b said"]


def test_a_clients_function_beside_them_is_answered_in_the_same_run_of_answers() -> None:
    assert steps(FUNCTION, mcp("a"), ANSWER) == [["f", "a"], "a said", "f said"]
    assert steps(mcp("a"), FUNCTION, ANSWER, mcp("b")) == [
        *[["a", "f"], "a said", "f said"],
        *[["b"], "b said"],
    ]
    assert steps(FUNCTION, mcp("a")) == [["f", "a"], "a said"]  # the answer may come with a request
    assert steps(FUNCTION, {"type": "mcp_approval_request", "id": "mcpr_1"}) == [["f"]]
    assert steps(FUNCTION, mcp("a"), ASKED) == [["a"], "a said", "go"]


@pytest.mark.parametrize(
    ("item", "call"),
    [
        (
            hosted("web_search_call", "found", action={"query": "tides"}),
            ("web_search", {"q": "tides"}),
        ),
        (hosted("file_search_call", "found", queries=["x"]), ("file_search", {"query": "x"})),
        (hosted("code_interpreter_call", "found", code="1"), ("code_interpreter", {"code": "1"})),
        (
            {
                "type": "file_search_call",
                "id": "h_1",
                "queries": ["x"],
                "results": [{"filename": "a.txt", "text": "piece"}],
            },
            ("file_search", {"query": "x"}),
        ),
        (
            {
                "type": "code_interpreter_call",
                "id": "h_1",
                "code": "1",
                "outputs": [{"type": "image", "url": "u"}, {"type": "logs", "logs": "out"}],
            },
            ("code_interpreter", {"code": "1"}),
        ),
    ],
)
def test_each_kind_is_called_by_the_name_that_it_is_offered_under(
    item: dict[str, Any], call: tuple[str, dict[str, str]]
) -> None:
    assistant, answer = to_messages([item])
    (made,) = assistant["tool_calls"]
    function = made["function"]
    assert (function["name"], msgspec.json.decode(function["arguments"])) == call
    assert answer["content"] in ("found", "[a.txt]\npiece", "out")


def test_names_are_those_of_this_requests_offers() -> None:
    names = {("srv", "look"): "srv__look", ("", "web_search"): "jan__web_search"}
    said = to_messages(
        [mcp("look"), hosted("web_search_call", "x", action={"query": "q"})], names=names
    )
    called = [call["function"]["name"] for call in said[0]["tool_calls"]]
    assert called == ["srv__look", "jan__web_search"]
    assert steps(mcp("odd/name with spaces"))[0] == ["odd_name_with_spaces"]
    assert steps(mcp("srv__look", output="x"))[0] == ["look"]


@pytest.mark.parametrize(
    "item",
    [
        mcp("a", output=None),
        mcp("a", status="incomplete"),
        mcp("a", status="in_progress", output=None),
        mcp("a") | {"name": None},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "code_interpreter_call", "id": "ci_1", "status": "failed", "outputs": None},
        {"type": "code_interpreter_call", "id": "ci_1", "outputs": [1, {"type": "image"}]},
    ],
)
def test_a_call_of_which_nobody_knows_what_came_of_it_is_left_out(item: dict[str, Any]) -> None:
    assert to_messages([ASKED, item]) == to_messages([ASKED])


@pytest.mark.parametrize("written", ["", "{", "[1]", '"text"', None, 7])
def test_arguments_are_an_object_whatever_the_model_wrote(written: Any) -> None:
    (called, _) = to_messages([mcp("a", arguments=written)])
    arguments = msgspec.json.decode(called["tool_calls"][0]["function"]["arguments"])
    assert arguments == ({"input": written} if written else {})


def test_of_too_many_outputs_the_newest_are_kept() -> None:
    half = "x" * (MAX_TOLD // 2)
    told = {name: Told(step, half) for step, name in enumerate("abc")}
    kept = bounded(told)
    assert [kept[name].output is not None for name in "abc"] == [False, False, True]
    assert [kept[name].step for name in "abc"] == [0, 1, 2]


def test_an_erased_runs_fact_has_nothing_of_what_its_tools_said() -> None:
    finished = RunFinished("run_1", "completed", 0.0, told={"ci_1": Told(1, "a secret")})
    left = to_content_free("finished", encode(finished))
    assert left is not None
    assert b"secret" not in left
