"""Files that are sent to a model whose code can read them: it is told of them, and finds them."""

import base64
import binascii
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from schemas.tool_options import is_file_name

Message = dict[str, Any]

_NAMELESS: Final = "file"
_READ: Final = ("data:application/pdf",)  # what models take themselves


class SentFile(NamedTuple):
    """A file in a message."""

    name: str
    data: bytes


def decode_file(data: str) -> bytes:
    """Decode a file's data: base64, alone or in a data URL. Raises ValueError."""
    head, comma, rest = data.partition(",")
    if head.startswith("data:") and not (comma and head.endswith(";base64")):
        raise ValueError("not base64")
    try:
        return base64.b64decode(rest if comma else data, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def files_in(messages: Iterable[Message]) -> list[SentFile]:
    """The files that chat messages have in them, oldest first."""
    return [
        SentFile(_name_of(part), decode_file(_data_of(part)))
        for message in messages
        for part in _parts(message)
        if _is_sent(part)
    ]


def told_in_words(messages: Iterable[Message]) -> list[Message]:
    """The messages, with a word about each file that only code can read in its place."""
    return [
        message | {"content": [_to_word(part) for part in _parts(message)]}
        if any(map(_is_codes, _parts(message)))
        else message
        for message in messages
    ]


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _is_sent(part: dict[str, Any]) -> bool:
    return part.get("type") == "file" and bool(_data_of(part))


def _is_codes(part: dict[str, Any]) -> bool:
    return _is_sent(part) and not _data_of(part).startswith(_READ)


def _to_word(part: dict[str, Any]) -> dict[str, Any]:
    if not _is_codes(part):
        return part
    return {"type": "text", "text": f"[The file {_name_of(part)} is in the folder of your code.]"}


def _data_of(part: dict[str, Any]) -> str:
    return str(part["file"].get("file_data") or "")


def _name_of(part: dict[str, Any]) -> str:
    """The last part of its name, if a file can be named so."""
    name = str(part["file"].get("filename") or "").replace("\\", "/").rpartition("/")[2]
    return name if is_file_name(name) else _NAMELESS
