"""Facts out of a file that `jan export` wrote."""

import base64
from collections.abc import Iterator
from pathlib import Path

import msgspec

from workers.persistence.facts import Fact


class _Line(msgspec.Struct):
    seq: int
    time: float
    subject: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    base64: str | None = None


_decode = msgspec.json.Decoder(_Line).decode


def read_facts(file: Path) -> Iterator[Fact]:
    """Read an export line by line. Raises ValueError naming the line, and OSError."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                told = _decode(line)
            except msgspec.DecodeError as error:
                raise ValueError(f"{file}, line {number}: {error}") from None
            data = base64.b64decode(told.base64) if told.base64 else bytes(told.data)
            yield Fact(told.seq, told.subject, data, told.time)
