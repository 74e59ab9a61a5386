"""Takes out of a chat request what only the anthropic engine understands.

The edge adds it to requests that came in Anthropic's form, and says so by the field `anthropic`.
Strict upstreams, such as OpenAI's own, refuse a request with unknown fields.
"""

from collections.abc import Callable
from typing import Final

import msgspec

FIELD: Final = "anthropic"
_OF_MESSAGES: Final = ("cache_control", "is_error", "reasoning_details")
_OF_PARTS: Final = ("cache_control", "tool_call_id")

Fields = dict[str, msgspec.Raw]

_encode = msgspec.json.Encoder().encode


def remove_extensions(fields: Fields) -> None:
    """Remove the extensions of a translated request; another's fields are its own affair."""
    if fields.pop(FIELD, None) is None:
        return
    _clean(fields, "tools", _without_cache_control)
    messages = bytes(fields.get("messages", b""))
    if any(b'"%b"' % name.encode() in messages for name in (*_OF_MESSAGES, *_OF_PARTS)):
        _clean(fields, "messages", _clean_message)


def _clean(fields: Fields, name: str, clean: Callable[[Fields], Fields]) -> None:
    if name not in fields:
        return
    try:
        items = msgspec.json.decode(fields[name], type=list[Fields])
        fields[name] = msgspec.Raw(_encode([clean(item) for item in items]))
    except msgspec.ValidationError:
        return  # not what a chat has there: the upstream says so better


def _without_cache_control(item: Fields) -> Fields:
    item.pop("cache_control", None)
    return item


def _clean_message(message: Fields) -> Fields:
    for name in _OF_MESSAGES:
        message.pop(name, None)
    for name, inner in (("content", _OF_PARTS), ("tool_calls", ("cache_control",))):
        value = bytes(message.get(name, b""))
        if value.startswith(b"["):
            parts = msgspec.json.decode(value, type=list[Fields])
            kept = [{key: part[key] for key in part if key not in inner} for part in parts]
            message[name] = msgspec.Raw(_encode(kept))
    return message
