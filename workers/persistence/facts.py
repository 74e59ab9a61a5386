"""What the log says, one message at a time."""

from typing import NamedTuple

from bus import Stored


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


def to_fact(stored: Stored) -> Fact:
    """Take a fact that was read back from the log."""
    return Fact(stored.seq, stored.subject, stored.data, stored.time)
