"""What the log says, one message at a time."""

from typing import NamedTuple

from bus import Delivery, Stored, header_value
from schemas import subjects

_NO_TIME = 1e11  # seconds after 1970: the year 5138


class Fact(NamedTuple):
    """One message of the log: `time` is when the server stored it, in unix seconds.

    One that was `imported` happened on another server, and `time` is when that one stored it: what
    follows from it is in the log too, so it is applied and nothing is decided on it.
    """

    seq: int
    subject: str  # events.<noun>.<verb>.<shard>
    data: bytes
    time: float
    imported: bool = False

    @property
    def noun(self) -> str:
        """What it happened to."""
        return self.subject.split(".")[1]

    @property
    def verb(self) -> str:
        """What happened."""
        return self.subject.split(".")[2]


def to_fact(stored: Stored | Delivery) -> Fact:
    """Take a fact that was pulled, or read back, from the log."""
    imported = header_value(stored.headers, subjects.IMPORTED.encode()) is not None
    told = header_value(stored.headers, subjects.TIME.encode()) if imported else None
    at = _to_seconds((told or b"").decode("latin-1")) or stored.time
    return Fact(stored.seq, stored.subject, stored.data, at, imported)


def _to_seconds(text: str) -> float | None:
    """Read a time that an import has kept."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < _NO_TIME else None
