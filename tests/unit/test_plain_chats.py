"""Chats for deployments without tools: what was called is told in words, and turns stay turns."""

from typing import Any

import msgspec

from workers.inference.plain import in_words


def told(*messages: dict[str, Any]) -> list[tuple[str, Any]]:
    fields = in_words({"messages": msgspec.Raw(msgspec.json.encode(messages))})
    found: list[dict[str, Any]] = msgspec.json.decode(fields["messages"])
    assert not any("tool_calls" in message for message in found)
    return [(message["role"], message["content"]) for message in found]


def call(call_id: str, name: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}


def test_calls_and_their_answers_become_words() -> None:
    said = {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [call("1", "a"), call("2", "b")],
    }
    answers = [
        {"role": "tool", "tool_call_id": "1", "content": "one"},
        {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "two"}]},
    ]
    last = {"role": "assistant", "content": "Done."}
    assert told({"role": "user", "content": "go"}, said, *answers, last) == [
        ("user", "go"),
        ("assistant", "I look.\n[Calls a: {}]\n[Calls b: {}]".replace("\n", "\n\n")),
        ("user", "[a answered:]\none\n\n[b answered:]\ntwo"),
        ("assistant", "Done."),
    ]
    custom = {"id": "3", "type": "custom", "custom": {"name": "c", "input": "free"}}
    assert told({"role": "assistant", "content": None, "tool_calls": [custom]}, answers[0]) == [
        ("assistant", "[Calls c: free]"),
        ("user", "[The tool answered:]\none"),
    ]


def test_a_chat_without_calls_stays_byte_for_byte() -> None:
    fields = {"messages": msgspec.Raw(b'[ {"role":"user","content":"tool_call?"} ]')}
    assert in_words(fields) is fields
    assert in_words({"prompt": msgspec.Raw(b'"x"')}) == {"prompt": msgspec.Raw(b'"x"')}
