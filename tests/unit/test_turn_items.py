"""Items and chat messages: one becomes the other and back, and nothing engines refuse is sent."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.api.history import (
    has_images,
    image_in,
    to_answer_items,
    to_input_items,
    to_messages,
)
from schemas.api.items import to_item

CALL: dict[str, Any] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"at":"sea"}'},
}
CUSTOM: dict[str, Any] = {
    "id": "call_2",
    "type": "custom",
    "custom": {"name": "sing", "input": "la"},
}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def tool(call_id: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


@pytest.mark.parametrize(
    "messages",
    [
        [user("hello"), assistant("hi")],
        [user("a"), assistant(None, tool_calls=[CALL]), tool("call_1", "waves"), assistant("b")],
        [user("a"), assistant("I look.", tool_calls=[CALL, CUSTOM]), tool("call_1", "x")],
        [user("a"), assistant(None, refusal="No.")],
        [{"role": "user", "content": "named", "name": "ann"}],
        [
            user(
                [
                    {"type": "text", "text": "what is this?"},
                    {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
                    {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
                    {"type": "file", "file": {"file_id": "file-1"}},
                ]
            )
        ],
    ],
)
def test_what_is_stored_is_sent_again_as_it_was(messages: list[dict[str, Any]]) -> None:
    assert to_messages(to_input_items(messages)) == messages


def test_instructions_are_not_kept() -> None:
    said = [{"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, user("u")]
    assert [item["role"] for item in to_input_items(said)] == ["user"]


def test_an_answer_becomes_reasoning_words_and_calls() -> None:
    message = assistant("b", reasoning_content="a", tool_calls=[CALL], refusal=None)
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    reasoning, words, call = to_answer_items(body, whole=True)
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "a"}]
    assert words["content"][0]["text"] == "b"
    assert (call["type"], call["call_id"], call["status"]) == (
        "function_call",
        "call_1",
        "completed",
    )


@pytest.mark.parametrize(("whole", "reason"), [(True, "length"), (False, None), (False, "stop")])
def test_an_answer_that_was_cut_is_incomplete(whole: bool, reason: str | None) -> None:
    body = {"choices": [{"message": assistant("and the"), "finish_reason": reason}]}
    [item] = to_answer_items(body, whole=whole)
    assert item["status"] == "incomplete"
    assert to_messages([item]) == [assistant("and the")]


def test_calls_that_nobody_answered_are_not_sent_unless_they_came_last() -> None:
    called = to_input_items([user("a"), assistant(None, tool_calls=[CALL])])
    assert len(to_messages(called)) == 2
    assert to_messages([*called, *to_input_items([user("b")])]) == [user("a"), user("b")]
    assert to_messages(to_input_items([tool("call_9", "of no call")])) == []


def test_a_call_that_waits_and_what_was_said_after_it_are_one_message() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    text = [{"type": "output_text", "text": "I look."}]
    said = {"type": "message", "role": "assistant", "content": text}
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}
    answer = {"type": "function_call_output", "call_id": "c", "output": "found"}
    for items in ([call, said], [call, thought, said], [call, said, answer]):
        spoken, *rest = to_messages(items)
        assert (spoken["content"], spoken["tool_calls"][0]["id"]) == ("I look.", "c")
        assert rest == ([tool("c", "found")] if answer in items else [])


def test_images_are_seen() -> None:
    picture = [{"type": "image_url", "image_url": {"url": "data:x"}}]
    assert has_images(to_input_items([user(picture)]))
    assert not has_images(to_input_items([user("none")]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FIELDS = st.sampled_from(
    ["content", "role", "tool_calls", "function", "refusal", "id", "type", "text", "choices"]
)


@given(st.dictionaries(FIELDS, JSON), st.booleans())
def test_no_answer_is_too_odd(message: dict[str, Any], whole: bool) -> None:
    to_messages(to_answer_items({"choices": [{"message": message}]}, whole=whole))


CALLED = st.fixed_dictionaries(
    {"id": JSON, "function": st.fixed_dictionaries({"name": JSON, "arguments": JSON})}
) | st.fixed_dictionaries(
    {"id": JSON, "custom": st.fixed_dictionaries({"name": JSON, "input": JSON})}
)
PART = st.fixed_dictionaries({"type": st.text()}, optional={"text": JSON, "refusal": JSON})
ANSWER = st.fixed_dictionaries(
    {},
    optional={
        "content": st.lists(PART) | JSON,
        "refusal": JSON,
        "reasoning_content": JSON,
        "tool_calls": st.lists(CALLED),
    },
)


@given(ANSWER, st.booleans())
def test_whatever_an_upstream_answers_is_kept_in_the_form_of_items(
    message: dict[str, Any], whole: bool
) -> None:
    """As a client could send them: no column refuses them, and an export can be imported."""
    for item in to_answer_items({"choices": [{"message": message}]}, whole=whole):
        told = msgspec.json.encode(item)
        to_item(msgspec.Raw(told), "item")
        assert b"\\u0000" not in told.replace(b"\\\\", b"")


def test_a_call_and_its_result_stay_together_however_long_their_id_is() -> None:
    call_id = "x" * 10_000
    said = [assistant(None, tool_calls=[CALL | {"id": call_id}]), tool(call_id, "waves")]
    called, answered = to_messages(to_input_items(said))
    assert called["tool_calls"][0]["id"] == answered["tool_call_id"] == call_id[:128]


PICTURE: dict[str, Any] = {"type": "input_image", "image_url": "data:image/png;base64,AA"}


def output(call_id: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": list(parts)}


def test_what_outputs_show_follows_their_run_in_a_message_of_the_users() -> None:
    calls = [{**CALL, "id": call_id} for call_id in ("call_1", "call_2")]
    [asked, *called] = to_input_items([user("a"), assistant(None, tool_calls=calls)])
    text = {"type": "input_text", "text": "a map"}
    items = [asked, *called, output("call_1", text, PICTURE), output("call_2", PICTURE)]
    said = to_messages([*items, *to_input_items([user("b")])])
    assert [message["role"] for message in said] == [
        *["user", "assistant", "tool", "tool", "user", "user"]
    ]
    assert said[2]["content"].startswith("a map\n[1 file of this output")
    assert said[3]["content"].startswith("[1 file of this output")
    heads = [part["text"] for part in said[4]["content"] if part["type"] == "text"]
    assert ["call_1" in heads[0], "call_2" in heads[1]] == [True, True]
    image = {"type": "image_url", "image_url": {"url": PICTURE["image_url"]}}
    assert said[4]["content"][1::2] == [image, image]
    assert image_in(items, "input") == "input[3].output[1]"
    assert has_images([output("call_1", PICTURE)])
    assert not has_images([output("call_1", text)])
