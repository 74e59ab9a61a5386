"""A tool's arguments: their JSON Schema as models get it, and reading what a model made of it."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from schemas.tools import MAX_ARGUMENTS
from workers.tools.outcome import Failed, encode

ArgumentsT = TypeVar("ArgumentsT")

_DROPPED = ("title", "$defs")  # names of our classes say nothing to a model


def to_schema(kind: Any) -> msgspec.Raw:
    """The JSON Schema of a type in one piece: without `$ref`, as OpenAI's functions want it."""
    schema = msgspec.json.schema(kind)
    return msgspec.Raw(encode(_inline(schema, schema.get("$defs", {}))))


def _inline(part: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(part, list):
        return [_inline(one, definitions) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        rest = {name: value for name, value in part.items() if name not in ("$ref", *_DROPPED)}
        named = dict(definitions[part["$ref"].removeprefix("#/$defs/")])
        named.pop("description", None)  # the class's docstring is for us
        return _inline(named, definitions) | rest
    if "properties" in part:  # their names are no keywords
        properties = {name: _inline(one, definitions) for name, one in part["properties"].items()}
        rest = {name: value for name, value in part.items() if name != "properties"}
        return _inline(rest, definitions) | {"properties": properties}
    return {
        name: _inline(value, definitions) for name, value in part.items() if name not in _DROPPED
    }


def read_object(tool: str, arguments: msgspec.Raw) -> dict[str, Any]:
    """Read a call's arguments as an object, also one inside a text. Raises Failed.

    A caller that got text from a model passes it on as a JSON string: only here is it known whether
    that text is JSON.
    """
    data: bytes | str = bytes(arguments)
    if len(data) > MAX_ARGUMENTS:
        raise _bad(tool, f"they are longer than {MAX_ARGUMENTS} bytes")
    try:
        found = msgspec.json.decode(data or b"{}")
        if isinstance(found, str):
            found = msgspec.json.decode(found or "{}")
    except (msgspec.DecodeError, RecursionError) as error:
        raise _bad(tool, f"they are not JSON: {error}") from None
    if not isinstance(found, dict):
        raise _bad(tool, f"a JSON object is wanted, not {type(found).__name__}")
    return found


def to_arguments(
    tool: str, found: dict[str, Any], kind: type[ArgumentsT], aliases: Mapping[str, str]
) -> ArgumentsT:
    """Read an object as a tool's typed arguments. Raises Failed with words that name the field."""
    named = {}
    for name, value in found.items():
        true = aliases.get(name, name)
        if true != name and true in found:
            raise _bad(tool, f"{name} and {true} are the same: give one of them")
        named[true] = value
    try:
        return msgspec.convert(named, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _bad(tool, str(error)) from None


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a JSON value, names included."""
    match value:
        case str():
            yield value
        case list():
            for one in value:
                yield from texts_in(one)
        case dict():
            for name, one in value.items():
                yield name
                yield from texts_in(one)


def _bad(tool: str, reason: str) -> Failed:
    return Failed("invalid_arguments", f"The arguments of {tool} can't be used: {reason}.")
