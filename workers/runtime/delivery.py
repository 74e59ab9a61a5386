"""One delivery of a job, and the answers that a worker can give to it."""

from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from bus import Bus, Message

_NANOSECONDS = 1_000_000_000


class AckSubject(NamedTuple):
    """What the server says of a delivery in the subject that takes its ack."""

    stream: str
    consumer: str
    delivered: int  # 1 for the first time
    sequence: int  # of the job in its stream


def read_ack_subject(subject: str) -> AckSubject:
    """Read `$JS.ACK.…`: nine tokens, or at least eleven with domain and account before the rest.

    Raises ValueError if it is neither.
    """
    tokens = subject.split(".")
    if tokens[:2] != ["$JS", "ACK"] or len(tokens) not in (9, 11, 12):
        raise ValueError(f"not an ack subject: {subject}")
    stream, consumer, delivered, sequence = tokens[2:6] if len(tokens) == 9 else tokens[4:8]
    return AckSubject(stream, consumer, int(delivered), int(sequence))


@dataclass(slots=True, eq=False)
class Delivery:
    """A job that the server gave us to do."""

    bus: Bus
    subject: str
    reply: str
    data: bytes
    delivered: int
    sequence: int
    since: float = field(default_factory=monotonic)

    def ack(self) -> None:
        """The job is done: the server forgets it."""
        self.bus.publish(self.reply, b"+ACK")

    def nak(self, delay: float = 0.0) -> None:
        """Another delivery shall do it, after `delay` seconds."""
        options = b' {"delay": %d}' % int(delay * _NANOSECONDS) if delay else b""
        self.bus.publish(self.reply, b"-NAK" + options)

    def term(self) -> None:
        """Nobody can do it: the server forgets it."""
        self.bus.publish(self.reply, b"+TERM")


def to_delivery(bus: Bus, message: Message) -> Delivery:
    """Take a pulled message. Raises ValueError if it has no ack subject."""
    reply = message.reply.decode()
    told = read_ack_subject(reply)
    return Delivery(
        bus, message.subject.decode(), reply, message.data, told.delivered, told.sequence
    )
