"""Server-sent events as upstreams send them: bytes cut anywhere, in every legal form."""

from schemas.errors import UpstreamError

EVENT_LIMIT = 1 << 20  # bytes of one event; a provider that sends more is broken


class EventSplitter:
    """Cuts a stream of bytes into the payloads of its events.

    Takes LF, CRLF and CR, comments, `data` over several lines (joined by LF) and fields that mean
    nothing here. Works on bytes, so a character may be cut in two. Whoever wants the events' names
    takes them with `feed_named` and `flush_named`; one stream is read in one of the two ways.
    """

    __slots__ = ("_begun", "_held_cr", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._held_cr = False
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the payloads that they complete."""
        return [payload for event in self._cut(data) if (payload := _payload(event))]

    def feed_named(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Take the next bytes; return the name (empty if it has none) and payload of each event."""
        named = [_name_and_payload(event) for event in self._cut(data)]
        return [(name, payload) for name, payload in named if payload]

    def flush(self) -> list[bytes]:
        """The payload of a last event that was not closed by a blank line."""
        return self.feed(b"\n\n")

    def flush_named(self) -> list[tuple[bytes, bytes]]:
        """The name and payload of a last event that was not closed by a blank line."""
        return self.feed_named(b"\n\n")

    def _cut(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the whole events that they complete."""
        if self._held_cr or b"\r" in data:
            data = self._to_lf(data)
        rest = self._rest
        if rest:
            seen = len(rest)
            rest += data
            end = rest.rfind(b"\n\n", seen - 1)
            block = bytes(rest[: max(end, 0)])
            del rest[: end + 2 if end >= 0 else 0]
        else:
            end = data.rfind(b"\n\n")
            block = data[: max(end, 0)]
            rest += data[end + 2 :] if end >= 0 else data
        if len(rest) > EVENT_LIMIT:
            raise UpstreamError("the provider sent an event of more than 1 MiB")
        if end < 0:
            return []
        if not self._begun:
            self._begun = True
            block = block.removeprefix(b"\xef\xbb\xbf")
        return block.split(b"\n\n")

    def _to_lf(self, data: bytes) -> bytes:
        if self._held_cr:
            data = b"\r" + data
        self._held_cr = data.endswith(b"\r")  # it may be half of a CRLF
        if self._held_cr:
            data = data[:-1]
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _payload(event: bytes) -> bytes:
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = []
    for line in event.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines)


def _name_and_payload(event: bytes) -> tuple[bytes, bytes]:
    name = b""
    lines = []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return name, b"\n".join(lines)
