"""A response's events as bytes for its readers, numbered from 0."""

from typing import Any, Final

import msgspec

_encode = msgspec.json.Encoder().encode
_PAD: Final = 16  # characters: a delta's length is told by its size only to so many
_STEPS: Final = "abcdefghijklmnop"


class Events:
    """Numbers events and writes them out; those up to `after` are counted and left out."""

    __slots__ = ("_after", "_told", "obfuscate", "sequence")

    def __init__(self, after: int = -1) -> None:
        self.sequence = 0  # of the next one
        self.obfuscate = False
        self._after = after
        self._told: list[bytes] = []

    def take(self) -> bytes:
        """What was told since the last time."""
        told = b"".join(self._told)
        self._told.clear()
        return told

    def tell(self, kind: str, **fields: Any) -> None:
        """Tell an event."""
        number = self._next()
        if number > self._after:
            event = {"type": kind, "sequence_number": number, **fields}
            self._told.append(to_sse(kind.encode(), number, _encode(event)))

    def tell_delta(self, kind: bytes, place: bytes, delta: str, more: bytes = b"") -> None:
        """Tell a piece of a text; `place` and `more` are JSON fields, each with a comma before."""
        number = self._next()
        if number > self._after:
            if self.obfuscate:
                more += b',"obfuscation":"%b"' % _STEPS[: _PAD - len(delta) % _PAD].encode()
            text = _encode(delta)
            self._told.append(
                b'event: %b\nid: %d\ndata: {"type":"%b","sequence_number":%d%b,"delta":%b%b}\n\n'
                % (kind, number, kind, number, place, text, more)
            )

    def _next(self) -> int:
        number = self.sequence
        self.sequence = number + 1
        return number


def to_sse(kind: bytes, number: int, event: bytes) -> bytes:
    """Frame an event's JSON as the server-sent event with this number."""
    return b"event: %b\nid: %d\ndata: %b\n\n" % (kind, number, event)
