"""A run's messages on TOKENS, and the fold that turns them into one text for every reader.

A message is a fixed prefix, then bytes that are ready for the client, then a trailer that is not
for the client:

    version u8 · kind u8 · flags u16 · status u16 · epoch u64 · first u32 · count u16
    · trailer u32 · at u64 (microseconds since 1970, the writer's clock)

FENCE  a worker takes the run; its sequence in the stream is the epoch; the trailer is a Fence.
DATA   `count` frames from index `first`, each `id: <index>\\ndata: <json>\\n\\n`; the trailer is
       what the engine needs to go on after them.
       RESULT: parts of an unstreamed body instead. ERROR: an error frame, `status` its HTTP status.
       COMMIT: the run's text ends here; the trailer is a Commit.
END    after RunFinished is stored; the trailer is an End.

The fold runs in stream order: a fence sets the epoch; data counts only under the current epoch and
only if its first frame is the next; nothing counts after a commit but END. So all readers compute
prefixes of the same text, and a worker that has lost its run can't be heard.
"""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from schemas.raw import OptionalRaw

VERSION = 1
FENCE, DATA, END = 1, 2, 3
COMMIT, RESULT, ERROR = 1, 2, 4

_PREFIX = struct.Struct(">BBHHQIHIQ")
PREFIX_SIZE = _PREFIX.size


class Fence(msgspec.Struct, frozen=True, omit_defaults=True):
    """A fence's trailer: who takes the run. `owner` is a nonce of the delivery."""

    owner: str
    attempt: int
    worker: str
    deadline: float


class Commit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A commit's trailer: what RunFinished needs and the client's bytes do not say.

    `stored`: what was generated will be kept, so readers wait for END before they tell the end.
    """

    status: str
    deployment: str = ""
    worker: str = ""
    attempt: int = 1
    finish_reason: str | None = None
    usage: OptionalRaw = None
    stored: bool = False


class End(msgspec.Struct, frozen=True):
    """An end's trailer: the sequence of RunFinished in EVENTS, for read-your-writes."""

    event_seq: int


class Frame(NamedTuple):
    """A decoded message; `data` is what the client gets, unchanged."""

    kind: int
    flags: int
    status: int
    epoch: int
    first: int
    events: int  # how many; their indexes start at `first`
    at: int
    data: bytes
    trailer: bytes


_STORED = b'"stored":true'

encode_trailer = msgspec.json.Encoder().encode
decode_fence = msgspec.json.Decoder(Fence).decode
decode_commit = msgspec.json.Decoder(Commit).decode
decode_end = msgspec.json.Decoder(End).decode


def encode(
    kind: int,
    *,
    epoch: int = 0,
    first: int = 0,
    count: int = 0,
    at: int = 0,
    data: bytes = b"",
    flags: int = 0,
    status: int = 0,
    trailer: bytes = b"",
) -> bytes:
    """Put a message together; `at` in microseconds."""
    prefix = _PREFIX.pack(VERSION, kind, flags, status, epoch, first, count, len(trailer), at)
    return prefix + data + trailer if trailer else prefix + data


def decode(message: bytes) -> Frame:
    """Take a message apart. Raises ValueError if it is not one of ours."""
    if len(message) < PREFIX_SIZE:
        raise ValueError("a frame message is shorter than its prefix")
    version, kind, flags, status, epoch, first, count, trailer, at = _PREFIX.unpack_from(message)
    if version != VERSION:
        raise ValueError(f"frame version {version} is not understood")
    end = len(message) - trailer
    if end < PREFIX_SIZE:
        raise ValueError("a frame's trailer is longer than its message")
    return Frame(
        kind, flags, status, epoch, first, count, at, message[PREFIX_SIZE:end], message[end:]
    )


def is_last(message: bytes) -> bool:
    """Whether a message may be the commit of a run, or comes after that."""
    try:
        frame = decode(message)
    except ValueError:
        return False
    return frame.kind == END or bool(frame.flags & COMMIT)


def sse(index: int, chunk: bytes) -> bytes:
    """Frame one chunk's JSON as the server-sent event with this index."""
    return b"id: %d\ndata: %b\n\n" % (index, chunk)


def split_events(data: bytes) -> list[bytes]:
    """Split a data message's bytes into its events, each with its closing blank line."""
    return [event + b"\n\n" for event in data.split(b"\n\n")[:-1]]


def chunk_of(event: bytes) -> bytes:
    """The JSON inside one event made by `sse`."""
    return event[event.index(b"\ndata: ") + 7 : -2]


def is_stored(frame: Frame | None) -> bool:
    """Tell whether a run's last data says that what was generated will be kept."""
    return frame is not None and bool(frame.flags & COMMIT) and _STORED in frame.trailer


@dataclass(slots=True)
class Fold:
    """The state of reading one run: which frame is next, under which epoch, and how it ended."""

    seq: int = 0  # sequence of the last message folded, of whatever kind
    epoch: int = 0
    next: int = 0
    committed: bool = False
    ended: bool = False
    event_seq: int = 0
    last: Frame | None = field(default=None, repr=False)  # the last data that counted

    def apply(self, seq: int, message: bytes) -> Frame | None:
        """Fold the next message of the stream in; return it if it is data that counts."""
        self.seq = seq
        frame = decode(message)
        if frame.kind == DATA:
            if self.committed or frame.epoch != self.epoch or frame.first != self.next:
                return None
            self.next += frame.events
            self.committed = bool(frame.flags & COMMIT)
            self.last = frame
            return frame
        if frame.kind == FENCE:
            self.epoch = seq
        elif frame.kind == END and self.committed:
            self.ended = True
            self.event_seq = decode_end(frame.trailer).event_seq
        return None
