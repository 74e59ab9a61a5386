"""What a request needs of a deployment, and the field that says so, in both forms of a chat."""

from typing import Any

import msgspec
import pytest

from schemas.api import chat, messages
from schemas.api.needs import needs_of, needs_of_messages

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
BLOCK = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}


def chat_needs(**fields: Any) -> dict[str, str]:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    return dict(needs_of(chat.decode_request(msgspec.json.encode(body))))


def message_needs(**fields: Any) -> dict[str, str]:
    turn = {"role": "user", "content": "x"}
    body = {"model": "m", "max_tokens": 9, "messages": [turn], **fields}
    return dict(needs_of_messages(messages.decode_request(msgspec.json.encode(body))))


def test_a_plain_chat_needs_nothing() -> None:
    assert chat_needs() == message_needs() == {}


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_tools_are_needed_unless_they_are_forbidden(choice: str) -> None:
    tools = [{"type": "function", "function": {"name": "a"}}]
    assert chat_needs(tools=tools, tool_choice=choice) == {"tools": "tools"}
    assert chat_needs(tools=tools, tool_choice="none") == {}
    blocks = [{"name": "a", "input_schema": {"type": "object"}}]
    assert message_needs(tools=blocks) == {"tools": "tools"}
    assert message_needs(tools=blocks, tool_choice={"type": "none"}) == {}


def test_the_first_image_is_named_where_it_stands() -> None:
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "look"}, IMAGE]},
    ]
    assert chat_needs(messages=turns) == {"vision": "messages[1].content[1]"}
    turns = [{"role": "user", "content": [{"type": "text", "text": "look"}, BLOCK]}]
    assert message_needs(messages=turns) == {"vision": "messages[0].content[1]"}


def test_an_image_in_a_tools_result_is_one_too() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "a", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [BLOCK]}
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    assert message_needs(messages=turns) == {"vision": "messages[2].content[0].content[0]"}


def test_a_schema_and_thoughts_are_needs() -> None:
    assert chat_needs(response_format=SCHEMA, reasoning_effort="low") == {
        "json_schema": "response_format",
        "reasoning": "reasoning_effort",
    }
    form = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    thinking = {"type": "enabled", "budget_tokens": 2048}
    assert message_needs(output_config=form, thinking=thinking, max_tokens=4096) == {
        "json_schema": "output_config.format",
        "reasoning": "thinking",
    }
