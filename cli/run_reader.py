"""Reading what the bus knows of a run: the log, its frames, what was asked of it."""

from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from bus import Bus
from cli.timeline import Fact, Story, in_order
from schemas import ids, subjects
from schemas.commands import encode
from schemas.errors import BusError, Unavailable
from schemas.queries import Ask, AskStored, decode_answer, raise_failure

CLOCKS_DIFFER = 10.0  # seconds that an edge's clock may be ahead of the bus's
_ASK_SECONDS = 4.0

T = TypeVar("T")


async def ask(bus: Bus, noun: str, verb: str, question: Ask, kind: type[T]) -> T:
    """Ask a persistence worker. Raises NotFound, Unavailable, BusError and other JanErrors."""
    answer = await bus.ask(subjects.query(noun, verb), encode(question), timeout=_ASK_SECONDS)
    return decode_answer(answer, kind)


def asking(bus: Bus) -> AskStored:
    """What asks persistence workers, and gives their answers' JSON."""

    async def ask_stored(noun: str, verb: str, question: Ask) -> bytes:
        subject = subjects.query(noun, verb)
        try:
            answer = await bus.ask(subject, encode(question), timeout=_ASK_SECONDS)
        except BusError as error:
            raise Unavailable("no persistence worker has answered") from error
        raise_failure(answer)
        return answer

    return ask_stored


@dataclass(frozen=True)
class Place:
    """Where a run's facts are in the log: from a sequence, or from a time, on."""

    run_id: str
    first_seq: int = 0

    @property
    def since(self) -> str | None:
        """The time at which to begin, if no sequence is known."""
        if self.first_seq:
            return None
        began = ids.created_ms(self.run_id) / 1000 - CLOCKS_DIFFER
        return datetime.fromtimestamp(max(began, 0.0), UTC).isoformat()


class Reader:
    """Reads the three streams that know of a run, each from where it stopped."""

    def __init__(self, bus: Bus, place: Place) -> None:
        self.story = Story(place.run_id)
        self._bus = bus
        self._since = place.since
        self._log_seq = place.first_seq - 1

    async def read(self) -> list[Fact]:
        """Read what is new; its facts in order of time."""
        facts = await self._read_log() + await self._read_frames() + await self._read_control()
        if self.story.fold.ended and self.story.finished is None:
            facts += await self._read_log()  # what was stored between the two readings
        return in_order(facts)

    async def _read_log(self) -> list[Fact]:
        facts: list[Fact] = []
        if self.story.over:
            return facts
        subject = subjects.event_shard(self.story.run_id)
        start = max(self._log_seq + 1, 1)
        messages = self._bus.read_subject(subjects.EVENTS, subject, start, start_time=self._since)
        async with aclosing(messages):
            async for stored in messages:
                self._since, self._log_seq = None, stored.seq
                facts += self.story.on_event(stored)
                if self.story.over:  # nothing of a run comes after its end
                    break
        return facts

    async def _read_frames(self) -> list[Fact]:
        subject = subjects.frames_anywhere(self.story.run_id)
        start = self.story.fold.seq + 1
        messages = self._bus.read_subject(subjects.TOKENS, subject, start)
        return [fact async for stored in messages for fact in self.story.on_frame(stored)]

    async def _read_control(self) -> list[Fact]:
        subject = subjects.cancel(self.story.run_id)
        start = self.story.control_seq + 1
        messages = self._bus.read_subject(subjects.CONTROL, subject, start)
        return [fact async for stored in messages for fact in self.story.on_control(stored)]
