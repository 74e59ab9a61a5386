"""Reading a request's JSON: one decode, and errors that name the field as the client wrote it."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from schemas.errors import InvalidRequest

T = TypeVar("T")

_PATH = re.compile(
    r"(?P<what>.*?)(?: - at `(?P<key>key)` in `(?P<map>[^`]*)`| - at `(?P<at>[^`]*)`)?",
    re.DOTALL,  # it quotes what the client wrote, newlines and all
)
_MISSING = re.compile(r"missing required field `(.*?)`")
_UNKNOWN = re.compile(r"unknown field `(.*?)`")
_SOME_KEY = "[...]"
_STEPS = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]|\[\.\.\.\]")
_TRIED = 1 << 22  # bytes that are read again to find a key: some 10 ms
_LONGEST_KEY = 64  # characters of one in a path
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUL = b"\\u0000"
_NAMED = 1 << 18  # bytes of a body in which a bad text's field is looked for: 20 MiB took 2 s


def decoder(kind: type[T], *, with_nul: bool = False) -> Callable[[bytes], T]:
    """Build the function that reads a body as `kind`; it raises InvalidRequest.

    Fields that `kind` does not know are skipped. Text that could not be stored or passed on is
    refused wherever it stands: invalid UTF-8, lone surrogates, NUL unless `with_nul`.
    """
    decode = msgspec.json.Decoder(kind).decode

    def decode_request(body: bytes) -> T:
        try:
            if not body.isascii():
                str(body, "utf-8")
            request = decode(body)
        except msgspec.ValidationError as error:
            told = str(error)
            raise to_invalid_request(
                told, lambda path: _with_keys(path, told, decode, body)
            ) from None
        except UnicodeDecodeError as error:
            raise _not_json(f"it is not UTF-8 (byte {error.start})") from None
        except RecursionError:
            raise _not_json("it is nested too deeply") from None
        except msgspec.DecodeError as error:
            _refuse_bad_text(body)
            raise _not_json(_first_lower(str(error).removeprefix("JSON is malformed: "))) from None
        # Without its escaped backslashes nothing in a body only looks like NUL.
        if not with_nul and _NUL in body and _NUL in body.replace(b"\\\\", b""):
            _refuse_bad_text(body)
            raise InvalidRequest("a text in the body contains the NUL character")
        return request

    return decode_request


def to_invalid_request(
    found: str, name: Callable[[str], str] = lambda path: path
) -> InvalidRequest:
    """Turn msgspec's sentence into an error that names the field: `messages[2].content`.

    `name` puts keys into a path, where msgspec says no more than that it is one of an object's.
    """
    match = _PATH.fullmatch(found)
    assert match is not None
    what, path = match["what"], match["at"] or match["map"] or "$"
    if _SOME_KEY in path:
        path = name(path)
    param = path.removeprefix("$").removeprefix(".").replace(_SOME_KEY, "")
    missing = _MISSING.search(what)
    if missing is not None:
        param = f"{param}.{missing[1]}".lstrip(".")
        return InvalidRequest(
            f"'{param}' is required", param=param, code="missing_required_parameter"
        )
    unknown = _UNKNOWN.search(what)
    if unknown is not None:
        param = f"{param}.{unknown[1]}".lstrip(".")
        return InvalidRequest(f"'{param}' is not known", param=param, code="unknown_parameter")
    code = "invalid_type" if ", got `" in what else "invalid_value"
    if match["key"]:
        what = f"a key: {what}"
    subject = f"'{param}'" if param else "the body"
    return InvalidRequest(f"{subject}: {_first_lower(what)}", param=param or None, code=code)


def _with_keys(path: str, found: str, decode: Callable[[bytes], Any], body: bytes) -> str:
    """A path with the keys in it that msgspec leaves out; it stays if they can't be found.

    Each object in question is cut down to one key after the other, until that is complained of.
    """
    if len(body) > _NAMED:
        return path
    named = ""
    try:
        root = value = msgspec.json.decode(body)
        for step in _STEPS.finditer(path):
            if step["name"]:
                value, named = value[step["name"]], f"{named}.{step['name']}"
            elif step["index"]:
                value, named = value[int(step["index"])], f"{named}[{step['index']}]"
            else:
                key = _complained_of(value, root, found, decode, _TRIED // len(body))
                value, named = value[key], f"{named}.{key[:_LONGEST_KEY]}"
    except (LookupError, TypeError, ValueError, RecursionError):
        return path
    return named


def _complained_of(
    value: dict[str, Any], root: Any, found: str, decode: Callable[[bytes], Any], most: int
) -> str:
    """Find the key of an object that gives the error, and leave only that. Raises LookupError."""
    for key, kept in list(value.items())[:most]:
        value.clear()
        value[key] = kept
        try:
            decode(msgspec.json.encode(root))
        except msgspec.ValidationError as error:
            if str(error) == found:
                return key
    raise LookupError


def _not_json(why: str) -> InvalidRequest:
    return InvalidRequest(f"the body is not valid JSON: {why}", code="invalid_json")


def _refuse_bad_text(body: bytes) -> None:
    """Look for the text that JSON can write but nobody can keep, and name its field."""
    if len(body) > _NAMED:
        return
    try:
        texts = _texts(json.loads(body))
    except (ValueError, RecursionError):
        return
    for path, text in texts:
        if "\0" in text:
            raise InvalidRequest(
                f"'{path}' contains the NUL character", param=path, code="invalid_value"
            )
        if _SURROGATE.search(text):
            raise InvalidRequest(
                f"'{path}' contains half of a surrogate pair, which is no character",
                param=path,
                code="invalid_value",
            )


def _texts(root: Any) -> Iterator[tuple[str, str]]:
    """All strings of a document with their paths; a key has the path of what it names."""
    stack: list[tuple[str, Any]] = [("", root)]
    while stack:
        path, value = stack.pop()
        match value:
            case str():
                yield path, value
            case list():
                stack += [(f"{path}[{index}]", item) for index, item in enumerate(value)]
            case dict():
                for key, item in value.items():
                    yield path or "the body", key
                    stack.append((f"{path}.{key}".lstrip("."), item))
            case _:
                pass


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]
