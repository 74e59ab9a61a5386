"""Chats for deployments that know no tools: what was called before is told in words."""

from collections.abc import Iterator
from typing import Any

import msgspec

Message = dict[str, Any]
Fields = dict[str, msgspec.Raw]

_decode = msgspec.json.Decoder(list[Message]).decode


def in_words(fields: Fields) -> Fields:
    """A chat's fields without calls of tools in its messages; what has none stays as it is."""
    messages = fields.get("messages")
    if messages is None or not any(name in bytes(messages) for name in (b"tool_calls", b'"tool"')):
        return fields
    told = list(_to_words(_decode(messages)))
    return fields | {"messages": msgspec.Raw(msgspec.json.encode(told))}


def _to_words(messages: list[Message]) -> Iterator[Message]:
    """Each run of answers becomes one message: templates want turns."""
    names: dict[str, str] = {}
    answers: list[str] = []
    for message in messages:
        if message.get("role") == "tool":
            name = names.get(message.get("tool_call_id") or "", "The tool")
            answers.append(f"[{name} answered:]\n{_text_of(message)}")
            continue
        if answers:
            yield {"role": "user", "content": "\n\n".join(answers)}
            answers = []
        calls = message.get("tool_calls") or ()
        told = [_text_of(message)]
        for call in calls:
            said = call.get("function") or call.get("custom") or {}
            names[call.get("id") or ""] = said.get("name") or "The tool"
            told.append(f"[Calls {said.get('name')}: {said.get('arguments', said.get('input'))}]")
        yield (
            message
            if not calls
            else {
                "role": "assistant",
                "content": "\n\n".join(part for part in told if part),
            }
        )
    if answers:
        yield {"role": "user", "content": "\n\n".join(answers)}


def _text_of(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))
