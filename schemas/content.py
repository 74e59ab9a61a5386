"""How much of what is said the log keeps: all of it, the beginning of each text, or nothing."""

from typing import Any, Final, Literal

import msgspec

Content = Literal["full", "short", "none"]

KEPT: Final = 200  # characters of each text, where texts are shortened


def shorten(body: bytes) -> bytes:
    """Cut every text in a JSON document; what was cut ends in `…`."""
    return msgspec.json.encode(_cut(msgspec.json.decode(body)))


def _cut(value: Any) -> Any:
    match value:
        case str() if len(value) > KEPT:
            return value[:KEPT] + "…"
        case list():
            return [_cut(item) for item in value]
        case dict():
            return {name: _cut(item) for name, item in value.items()}
        case _:
            return value
