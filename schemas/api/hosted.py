"""Calls that this server answered itself, as the chat in which the model made them."""

import hashlib
import re
from collections.abc import Container, Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from schemas.api.items import Item
from schemas.tool_options import MAX_FILES

HOSTED: Final = ("mcp_call", "web_search_call", "file_search_call", "code_interpreter_call")
"""The types of items of such calls."""

MAX_TOLD: Final = 1 << 20  # bytes of what is kept of a response's outputs besides its items

Names = Mapping[tuple[str, str], str]
"""What tools are offered as, by their server's label and their name there.

Those that have an item of their own are named by its kind, such as web_search, with no label.
"""

_LONGEST_NAME: Final = 64  # what OpenAI's functions may have
_UNENDED: Final = ("in_progress", "incomplete", "calling", "searching", "interpreting")
_ASKED: Final = {"web_search": "q", "file_search": "query", "code_interpreter": "code"}

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class MadeFile(msgspec.Struct, frozen=True):
    """A file that code has made. Where it lies follows from its ids and its owner."""

    id: str
    container: str
    name: str
    bytes: int


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a call that its item does not say.

    `step` is the model's that made it. `output` is what the model was told, where the item, shown
    as its client wants it, has something else. `files` are those that code has made.
    """

    step: int = 0
    output: str | None = None
    files: list[MadeFile] = []


class HostedCall(NamedTuple):
    """A call and its answer, as the model knows them."""

    name: str
    arguments: str
    output: str


def free_name(name: str, label: str, taken: Container[str] = ()) -> str:
    """The name that a model calls a tool of a server by: its own, unless that is taken.

    It is one that functions can have, whatever an MCP server calls its tool.
    """
    shown = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    for free in (shown, f"{label}__{shown}"):
        if 0 < len(free) <= _LONGEST_NAME and free not in taken:
            return free
    told = hashlib.sha256(f"{label}/{name}".encode()).hexdigest()[:8]
    return f"{shown[: _LONGEST_NAME - 9]}_{told}"


def to_hosted_call(item: Item, names: Names) -> HostedCall | None:
    """Read an item; None if the call has not ended, or nobody knows what came of it."""
    output = output_of(item)
    if output is None or item.get("status") in _UNENDED:
        return None
    kind = item["type"].removesuffix("_call")
    if kind != "mcp":
        return HostedCall(names.get(("", kind), kind), _to_arguments(item, kind), output)
    label, name = item.get("server_label"), item.get("name")
    if not isinstance(label, str) or not isinstance(name, str):
        return None
    shown = names.get((label, name)) or free_name(name.removeprefix(f"{label}__"), label)
    return HostedCall(shown, _to_object(item.get("arguments")), output)


def output_of(item: Item) -> str | None:
    """What the model was told of a call's outcome, as far as that is known."""
    told = item.get("told")
    if isinstance(told, dict) and isinstance(told.get("output"), str):
        return str(told["output"])
    match item:
        case {"type": "mcp_call"}:
            said = item.get("output")
            return _to_text(said) if said is not None else _to_message(item.get("error"))
        case {"outputs": [*parts]}:
            logs = [part["logs"] for part in parts if _has(part, "logs")]
            return "\n".join(logs) if logs else None
        case {"results": [*found]}:
            pieces = [_to_piece(one) for one in found if _has(one, "text")]
            return "\n\n".join(pieces) or "Nothing was found."
        case _:
            return None


def bounded(told: Mapping[str, Told], most: int = MAX_TOLD) -> dict[str, Told]:
    """As much of the newest outputs as fits into so many bytes, by their calls' items."""
    room, kept = min(most, MAX_TOLD), dict(told)
    for item, one in reversed(list(told.items())):
        room -= len(msgspec.json.encode(one)) if one.output is not None or one.files else 0
        if room < 0:
            kept[item] = Told(one.step)
    return kept


def files_of(items: Iterable[Item]) -> list[MadeFile]:
    """The files that code has made, the newest of each name, those made last at the end."""
    found: dict[str, MadeFile] = {}
    for item in items:
        told = item.get("told")
        made = told.get("files") if isinstance(told, dict) else None
        for file in msgspec.convert(made or [], list[MadeFile]):
            found.pop(file.name, None)
            found[file.name] = file
    return list(found.values())[-MAX_FILES:]


def _to_arguments(item: Item, kind: str) -> str:
    match item:
        case {"action": {"query": str(asked)}} | {"queries": [str(asked), *_]}:
            pass
        case _:
            asked = str(item.get("code") or "")
    return msgspec.json.encode({_ASKED[kind]: asked}).decode()


def _to_object(arguments: Any) -> str:
    """Arguments as engines take them: what a model wrote that is no object becomes one."""
    try:
        _decode_object(arguments)
    except (msgspec.DecodeError, RecursionError, TypeError):
        return msgspec.json.encode({"input": arguments} if arguments else {}).decode()
    return str(arguments)


def to_error(message: str) -> dict[str, Any]:
    """The `error` of an `mcp_call` that failed."""
    return {
        "type": "mcp_tool_execution_error",
        "content": [{"type": "text", "text": message}],
    }


def _to_message(error: Any) -> str | None:
    """What an `error` says: one of three objects, or, as OpenAI had it before, a text."""
    match error:
        case {"message": str(message)}:
            return message
        case {"content": [*parts]} if parts and all(_has(part, "text") for part in parts):
            return "\n".join(part["text"] for part in parts)
        case _:
            return _to_text(error)


def _to_text(said: Any) -> str | None:
    return said if isinstance(said, str | None) else msgspec.json.encode(said).decode()


def _to_piece(found: dict[str, Any]) -> str:
    return f"[{found.get('filename') or found.get('file_id')}]\n{found['text']}"


def _has(part: Any, name: str) -> bool:
    return isinstance(part, dict) and isinstance(part.get(name), str)
