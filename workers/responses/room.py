"""The room that a response's output has, and what is kept of one that is too large.

The bus takes no message of any size, and a response is one, in its last frame and in the log.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from schemas.api.items import Item
from schemas.commands import encode
from schemas.history import MAX_STORED_RESULT
from schemas.responses.fold import ResponseFold
from workers.responses.settings import ResponsesSettings

_REST: Final = 64 << 10  # bytes for what an object has at its end beside its output
_TEXTS: Final = ("message", "reasoning")


class Kept(NamedTuple):
    """The items that are kept, and what became of the others; None if there are none."""

    items: list[Item]
    left_out: str | None = None


def has_room(fold: ResponseFold, settings: ResponsesSettings) -> bool:
    """Whether the output is no larger than it may be."""
    return len(encode(fold.items)) <= _to_room(fold, settings)


def keep(fold: ResponseFold, settings: ResponsesSettings) -> Kept:
    """The first items, as many as there is room for; of the next one, if it is a text, a part."""
    items, most = fold.items, _to_room(fold, settings)
    size = len(encode(items))
    if size <= most:
        return Kept(items)
    kept, room = _whole_ones(items, most)
    at = len(kept)
    cut = _cut(items[at], room)
    told = f"the output has {size} bytes, of {most} that it may have: "
    if cut is None:
        return Kept(kept, f"{told}items left out: {len(items) - at} of {len(items)}")
    told += f"output[{at}] is cut short"
    after = len(items) - at - 1
    return Kept([*kept, cut], f"{told}, items left out after it: {after}" if after else told)


def _to_room(fold: ResponseFold, settings: ResponsesSettings) -> int:
    """Bytes that the output may have: what was asked is told beside it."""
    assert fold.begun is not None
    return min(settings.response_bytes, MAX_STORED_RESULT - len(fold.begun.response) - _REST)


def _whole_ones(items: Sequence[Item], most: int) -> tuple[list[Item], int]:
    """The first items that have room, and how many bytes they leave."""
    kept: list[Item] = []
    room = most - 2  # the list's brackets
    for item in items:
        size = len(encode(item)) + 1
        if size > room:
            break
        room -= size
        kept.append(item)
    return kept, room


def _cut(item: Item, most: int) -> Item | None:
    """The beginning of an item that is a text; None if it is none, or there is no room."""
    if item["type"] not in _TEXTS:
        return None
    field = "summary" if item.get("summary") else "content"
    cut = item | {field: [], "status": "incomplete"}
    room = most - len(encode(cut))
    for part in item[field]:
        size = len(encode(part)) + 1
        if size > room:
            beginning = _cut_part(part, room)
            cut[field] += [beginning] if beginning is not None else []
            break
        room -= size
        cut[field].append(part)
    return cut if cut[field] else None


def _cut_part(part: dict[str, Any], most: int) -> dict[str, Any] | None:
    """The beginning of a part; what pointed into its text is left out."""
    name = "refusal" if "refusal" in part else "text"
    lists: dict[str, Any] = {name: [] for name in ("annotations", "logprobs") if name in part}
    text = _beginning(part[name], most - len(encode(part | lists | {name: ""})))
    return part | lists | {name: text} if text else None


def _beginning(text: str, most: int) -> str:
    """As much of a text as has so many bytes as JSON."""
    while text and (size := len(encode(text)) - 2) > most:
        text = text[: len(text) * max(0, most) // size]
    return text
