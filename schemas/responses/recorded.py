"""What a response's tools said, for a replay in which they are not called again. Pure functions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from schemas.api.hosted import HOSTED
from schemas.ids import derived_id
from schemas.responses.output import Item
from schemas.tools import ToolProblem, ToolResult


class Recorded(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a replay knows of the response that it repeats: what came of its calls, and its lists.

    `said` are the chat messages of the steps before the one that it begins at.
    """

    results: list[tuple[str, ToolResult]] = []  # by what was called, in its order
    lists: list[Item] = []
    said: list[dict[str, Any]] = []


def call_id(run_id: str, place: int) -> str:
    """The id of the call that an item of a response's output is."""
    return derived_id("tool_", run_id, place)


def to_recorded(run_id: str, output: Sequence[Item], results: Mapping[str, ToolResult]) -> Recorded:
    """Put what the log has of a response's calls, by their ids, to what they were."""
    found: list[tuple[str, ToolResult]] = []
    for place, item in enumerate(output):
        result = results.get(call_id(run_id, place))
        if item["type"] in HOSTED and result is not None:
            found.append((key_of(item), result))
    return Recorded(found, [item for item in output if item["type"] == "mcp_list_tools"])


def find_result(recorded: Recorded, item: Item, before: Iterable[Item]) -> ToolResult:
    """What came of this call then; of one that was made several times, what came each time.

    `before` are the items of the replay before this one.
    """
    key = key_of(item)
    same = [result for called, result in recorded.results if called == key]
    if not same:
        message = "There is no recorded result of this call: it was not made like this then."
        return ToolResult("failed", message, error=ToolProblem("not_recorded", message))
    earlier = sum(one["type"] in HOSTED and key_of(one) == key for one in before)
    return same[min(earlier, len(same) - 1)]


def key_of(item: Item) -> str:
    """What makes two calls the same: the tool, and the arguments as JSON."""
    action = item.get("action")
    told = [
        item["type"],
        item.get("server_label"),
        item.get("name"),
        _to_json(item.get("arguments")),
        action.get("query") if isinstance(action, dict) else None,
        item.get("queries"),
        item.get("code"),
    ]
    return msgspec.json.encode(told, order="deterministic").decode()


def _to_json(text: Any) -> Any:
    try:
        return msgspec.json.decode(text) if isinstance(text, str) else text
    except (msgspec.DecodeError, RecursionError):
        return text
