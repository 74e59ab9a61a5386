"""A stream's subject in memory, and connections to it that delay, lose and freeze."""

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random

from bus import Ack, Stored
from schemas.errors import BusError, BusTimeout, WrongLastSequence


class FakeSubject:
    """What the server keeps of one subject; other subjects take some of the sequences."""

    def __init__(self, name: str, random: Random | None = None) -> None:
        self.name = name
        self.stored: list[Stored] = []
        self._random = random
        self._seq = 0

    def store(self, subject: str, data: bytes, expect_last: int | None) -> Ack | BusError:
        last = self.stored[-1].seq if self.stored else 0
        if expect_last is not None and expect_last != last:
            return WrongLastSequence(f"wrong last sequence: {last}", err_code=10071)
        self._seq += 1 if self._random is None else self._random.randint(1, 3)
        self.stored.append(Stored(self._seq, subject, data, b"", 0.0))
        return Ack("TOKENS", self._seq)


class Connection:
    """One process's connection: it offers what a writer needs of the bus.

    With a `random`, messages and answers take their time and overtake each other; `faults` is the
    share of them that are lost, or told to be lost though they arrive.
    """

    def __init__(
        self, subject: FakeSubject, random: Random | None = None, faults: float = 0.0
    ) -> None:
        self._subject = subject
        self._random = random
        self._faults = faults
        self._loop = asyncio.get_running_loop()
        self._held: list[Callable[[], None]] | None = None
        self._dead = False

    def kill(self) -> None:
        """The process ends: it hears nothing any more. What it has sent still arrives."""
        self._dead = True

    def freeze(self) -> None:
        """The process stands still."""
        self._held = []

    def thaw(self) -> None:
        """It goes on, and hears at once what it has missed."""
        held, self._held = self._held, None
        for call in held or ():
            self._loop.call_soon(call)

    async def step(self, seconds: float) -> None:
        """Let the process do something that takes so long, and longer if it is frozen."""
        await self._heard(seconds)

    def send_stored(
        self,
        subject: str,
        data: bytes,
        on_ack: Callable[[Ack | BusError], None],
        *,
        expect_last: int | None = None,
        timeout: float = 5.0,
    ) -> None:
        told = False

        def tell(answer: Ack | BusError) -> None:
            nonlocal told
            if not told:
                told = True
                on_ack(answer)

        def arrive() -> None:
            answer = self._subject.store(subject, data, expect_last)
            if not self._is_faulty():
                self._hear(self._delay(), lambda: tell(answer))

        if self._held is not None:
            self._held.append(lambda: self._loop.call_later(self._delay(), arrive) and None)
        elif not self._is_faulty():
            self._loop.call_later(self._delay(), arrive)
        # A lost connection tells so at once, and what was sent over it may arrive after all.
        lost = self._delay() if self._is_faulty() else timeout
        self._hear(lost, lambda: tell(BusTimeout("the outcome is unknown")))

    async def read_subject(
        self, stream: str, subject: str, start_seq: int = 1
    ) -> AsyncIterator[Stored]:
        assert (stream, subject) == ("TOKENS", self._subject.name)
        await self._heard(self._delay())
        breaks_off = self._is_faulty()
        for stored in list(self._subject.stored):
            if stored.seq < start_seq:
                continue
            yield stored
            if breaks_off and self._random is not None and self._random.random() < 0.5:
                break
        if breaks_off:
            raise BusTimeout("the reading was cut off")
        await self._heard(self._delay())

    def _delay(self) -> float:
        return 0.0 if self._random is None else self._random.choice((0.0, 0.001, 0.01, 0.5))

    def _is_faulty(self) -> bool:
        return self._random is not None and self._random.random() < self._faults

    def _hear(self, delay: float, call: Callable[[], None]) -> None:
        def arrive() -> None:
            if self._dead:
                return
            if self._held is not None:
                self._held.append(call)
            else:
                call()

        self._loop.call_later(delay, arrive)

    async def _heard(self, delay: float) -> None:
        heard: asyncio.Future[None] = self._loop.create_future()
        self._hear(delay, lambda: None if heard.done() else heard.set_result(None))
        await heard
