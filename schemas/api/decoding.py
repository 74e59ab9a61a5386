"""Reading a request's JSON: one decode, and errors that name the field as the client wrote it."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from schemas.errors import InvalidRequest

T = TypeVar("T")

_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?P<key>key)` in `(?P<map>.*)`| - at `(?P<at>.*)`)?$")
_MISSING = re.compile(r"missing required field `(.*?)`")
_UNKNOWN = re.compile(r"unknown field `(.*?)`")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUL = b"\\u0000"
_NAMED = 1 << 18  # bytes of a body in which a bad text's field is looked for: 20 MiB took 2 s


def decoder(kind: type[T]) -> Callable[[bytes], T]:
    """Build the function that reads a body as `kind`; it raises InvalidRequest.

    Fields that `kind` does not know are skipped. Text that could not be stored or passed on is
    refused wherever it stands: invalid UTF-8, lone surrogates, NUL.
    """
    decode = msgspec.json.Decoder(kind).decode

    def decode_request(body: bytes) -> T:
        try:
            if not body.isascii():
                str(body, "utf-8")
            request = decode(body)
        except msgspec.ValidationError as error:
            raise to_invalid_request(str(error)) from None
        except UnicodeDecodeError as error:
            raise _not_json(f"it is not UTF-8 (byte {error.start})") from None
        except RecursionError:
            raise _not_json("it is nested too deeply") from None
        except msgspec.DecodeError as error:
            _refuse_bad_text(body)
            raise _not_json(_first_lower(str(error).removeprefix("JSON is malformed: "))) from None
        # Without its escaped backslashes nothing in a body only looks like NUL.
        if _NUL in body and _NUL in body.replace(b"\\\\", b""):
            _refuse_bad_text(body)
            raise InvalidRequest("a text in the body contains the NUL character")
        return request

    return decode_request


def to_invalid_request(found: str) -> InvalidRequest:
    """Turn msgspec's sentence into an error that names the field: `messages[2].content`."""
    match = _PATH.match(found)
    assert match is not None
    what, path = match["what"], match["at"] or match["map"] or "$"
    param = path.removeprefix("$").removeprefix(".").replace("[...]", "")
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
