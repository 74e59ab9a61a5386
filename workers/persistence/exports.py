"""Facts out of a file that `jan export` wrote."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from schemas.exports import decode_exported
from workers.persistence.facts import Fact


def read_facts(file: Path) -> Iterator[Fact]:
    """Read an export line by line. Raises ValueError naming the line, and OSError."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                told = decode_exported(line)
                data = told.body
            except (msgspec.DecodeError, ValueError) as error:
                raise ValueError(f"{file}, line {number}: {error}") from None
            yield Fact(told.seq, told.subject, data, told.time)
