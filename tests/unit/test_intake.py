"""A fault of ours in taking the log in: it is found, buried, and holds no other fact up."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from prometheus_client import CollectorRegistry

from bus import Bus, Delivery
from workers.persistence.database import Health
from workers.persistence.facts import Fact
from workers.persistence.intake import Intake, Metrics
from workers.persistence.projector import Projector

FAULTY = 5


@dataclass
class Recorder:
    """A bus that only notes what it is told."""

    said: dict[str, list[bytes]] = field(default_factory=dict)
    stored: list[str] = field(default_factory=list)

    def publish(self, subject: str, data: bytes) -> None:
        self.said.setdefault(subject, []).append(data)

    async def store(self, subject: str, *_: object, **__: object) -> None:
        self.stored.append(subject)


@dataclass
class FaultyProjector:
    """It takes everything in but one fact, at which it fails as a program does."""

    taken: list[int] = field(default_factory=list)
    passed: list[int] = field(default_factory=list)

    async def project(self, facts: Sequence[Fact], _: Callable[[], Awaitable[None]]) -> list[Fact]:
        if any(fact.seq == FAULTY for fact in facts):
            raise TypeError("a fault of ours")
        self.taken += [fact.seq for fact in facts]
        return []

    async def pass_over(self, fact: Fact, _: Callable[[], Awaitable[None]]) -> None:
        self.passed.append(fact.seq)


async def take(bus: Recorder, projector: FaultyProjector, *, nth: int, seqs: range) -> None:
    metrics = Metrics(CollectorRegistry(), Health())
    intake = Intake(cast(Projector, projector), cast(Bus, bus), metrics, 256)
    await intake.on_events([to_delivery(bus, seq, nth) for seq in seqs])


def to_delivery(bus: Recorder, seq: int, nth: int) -> Delivery:
    subject = "events.run.finished.1"
    return Delivery(cast(Bus, bus), subject, b"{}", b"", f"ack.{seq}", seq, nth, 0.0)


async def test_the_others_of_its_batch_are_taken_in_and_it_is_tried_again() -> None:
    bus, projector = Recorder(), FaultyProjector()
    await take(bus, projector, nth=1, seqs=range(1, 12))
    assert projector.taken == [seq for seq in range(1, 12) if seq != FAULTY]
    assert {subject for subject, said in bus.said.items() if said != [b"+ACK"]} == {"ack.5"}
    assert bus.said["ack.5"][0].startswith(b"-NAK")
    assert (bus.stored, projector.passed) == ([], [])


async def test_it_is_buried_when_it_has_failed_often_enough() -> None:
    bus, projector = Recorder(), FaultyProjector()
    await take(bus, projector, nth=5, seqs=range(FAULTY, FAULTY + 1))
    assert bus.stored == ["dead.events.events.run.finished.1"]
    assert projector.passed == [FAULTY]
    assert bus.said["ack.5"] == [b"+ACK"]
