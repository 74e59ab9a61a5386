"""The inbox's readers get one text, whatever of the live messages is lost, doubled or late."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.connection import Stored
from bus.wire import Message, OnMessage
from edge import inbox
from edge.inbox import MAX_HELD, Inbox, Reader
from schemas import frames, subjects
from schemas.errors import BusTimeout, InternalError, NotFound
from tests.support.histories import History, histories

RUN = "run_0123456789abcdefghjkmnpqrs"
LONG_AGO = -1e9


class Subscribed:
    """A subscription of the fake log."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    async def unsubscribe(self) -> None:
        self._end()


class FakeLog:
    """TOKENS with one run, in memory. `visible` is how much of the history is stored by now."""

    def __init__(self, history: History, visible: int = 0) -> None:
        self.history = history
        self.visible = visible
        self.connected = True
        self.fails = 0
        self.read: list[str] = []
        self.looked = asyncio.Semaphore(0)
        self.handlers: dict[str, list[OnMessage]] = {}
        self.while_reading: Callable[[], None] = lambda: None

    async def subscribe(self, subject: str, on_message: OnMessage, queue: str = "") -> Any:  # noqa: ARG002
        self.handlers.setdefault(subject, []).append(on_message)
        return Subscribed(lambda: self.handlers[subject].remove(on_message))

    def on_reconnect(self, _: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    async def read_subject(
        self, stream: str, subject: str, start_seq: int = 1
    ) -> AsyncIterator[Stored]:
        assert stream == subjects.TOKENS
        self.read.append(subject)
        self.looked.release()
        stored = [m for m in self.history.messages[: self.visible] if m[0] >= start_seq]
        for seq, data in stored:
            await asyncio.sleep(0)
            yield Stored(seq, subjects.frames("edge-1", RUN), data, b"", 0.0)
        self.while_reading()
        if self.fails:
            self.fails -= 1
            raise BusTimeout("cut off")

    def live(self, index: int) -> Message:
        """The message as the server republishes it."""
        seq, data = self.history.messages[index]
        last = self.history.messages[index - 1][0] if index else 0
        headers = (
            b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 999\r\nNats-Stream: TOKENS\r\n"
            b"Nats-Subject: frames.edge-1.%b\r\nNats-Sequence: %d\r\n"
            b"Nats-Last-Sequence: %d\r\n\r\n" % (RUN.encode(), seq, last)
        )
        return Message(
            subjects.live_of_edge("edge-1").encode()[:-1] + RUN.encode(), b"", headers, data
        )


def _reader(log: FakeLog, *, behind: bool = False, skip: int = 0) -> Reader:
    return Reader(log, RUN, subjects.frames("edge-1", RUN), behind=behind, skip=skip)


async def _read_all(reader: Reader) -> bytes:
    text = b""
    while not reader.done:
        async with asyncio.timeout(30):
            text += await reader.next(float("inf"))
    return text


@given(histories(finished=True), st.data())
@settings(max_examples=300)
def test_a_reader_gets_the_one_text(history: History, data: st.DataObject) -> None:
    """Live messages arrive in any order, twice or never; reads fail; the consumer is slow."""
    asyncio.run(_read_under_losses(history, data))


async def _read_under_losses(history: History, data: st.DataObject) -> None:
    log = FakeLog(history)
    reader = _reader(log, behind=data.draw(st.booleans(), "attached"))
    expected, got = history.text, b""
    on_the_way: list[int] = []

    def store_one() -> None:
        if log.visible < len(history.messages):
            on_the_way.extend([log.visible] * data.draw(st.sampled_from([1, 1, 0, 2]), "copies"))
            log.visible += 1

    def deliver_some() -> None:
        while on_the_way and data.draw(st.booleans(), "delivered"):
            index = data.draw(st.sampled_from([0, 0, len(on_the_way) - 1]), "which")
            reader.on_live(log.live(on_the_way.pop(index)))

    def go_on_while_reading() -> None:
        for _ in range(data.draw(st.integers(0, 3), "stored while reading")):
            store_one()
            deliver_some()

    log.while_reading = go_on_while_reading
    while log.visible < len(history.messages):
        store_one()
        deliver_some()
        if data.draw(st.booleans(), "consumer comes"):
            log.fails = data.draw(st.integers(0, 1), "fails")
            got += await reader.next(LONG_AGO)
        assert expected.startswith(got)
    reader.fall_behind()  # what silence does at the latest
    log.fails = 0
    assert got + await _read_all(reader) == expected


@given(histories(finished=True), st.integers(0, 15))
def test_a_resumed_reader_gets_what_follows_the_index_that_it_names(
    history: History, skip: int
) -> None:
    async def read() -> bytes:
        reader = _reader(FakeLog(history, len(history.messages)), behind=True, skip=skip)
        return await _read_all(reader)

    assert asyncio.run(read()) == b"".join(frames.split_events(history.text)[skip:])


def _fence() -> bytes:
    return frames.encode(frames.FENCE)


def _data(first: int, text: bytes, flags: int = 0, epoch: int = 1) -> bytes:
    return frames.encode(frames.DATA, epoch=epoch, first=first, count=1, data=text, flags=flags)


async def test_a_fresh_run_is_read_live_only() -> None:
    log = FakeLog(History([(1, _fence()), (4, _data(0, b"a")), (9, _data(1, b"b", frames.COMMIT))]))
    reader = _reader(log)
    for index in range(3):
        reader.on_live(log.live(index))

    assert await reader.next(LONG_AGO) == b"ab"
    assert reader.done
    assert not log.read


async def test_a_consumer_is_woken_by_what_comes() -> None:
    log = FakeLog(History([(1, _fence()), (2, _data(0, b"a"))]))
    reader = _reader(log)
    waiting = asyncio.create_task(reader.next(float("inf")))
    await asyncio.sleep(0)
    reader.on_live(log.live(0))
    reader.on_live(log.live(1))

    assert await waiting == b"a"


async def test_a_reader_that_nobody_empties_holds_a_bounded_number_of_bytes() -> None:
    piece = b"x" * 100_000
    stored = [(1, _fence()), *((n + 2, _data(n, piece)) for n in range(100))]
    log = FakeLog(History([*stored, (200, _data(100, b"end", frames.COMMIT))]))
    reader = _reader(log)
    for index in range(len(log.history.messages)):
        reader.on_live(log.live(index))
    log.visible = len(log.history.messages)

    pieces = []
    while not reader.done:
        pieces.append(await reader.next(LONG_AGO))

    assert max(map(len, pieces)) <= MAX_HELD + len(piece)
    assert b"".join(pieces) == piece * 100 + b"end"


async def test_silence_makes_the_consumer_look_into_tokens() -> None:
    log = FakeLog(History([(1, _fence()), (2, _data(0, b"a", frames.COMMIT))]), visible=2)
    reader = _reader(log)
    waiting = asyncio.create_task(reader.next(float("inf")))
    await asyncio.sleep(0)
    now = asyncio.get_running_loop().time()

    assert not reader.tick(now + 1.9)
    assert reader.tick(now + 2.1)
    reader.fall_behind()

    assert await waiting == b"a"


async def test_silent_readers_take_turns() -> None:
    """A tick reads for 50 of them; one that stays silent has its next turn after all others."""
    log = FakeLog(History())
    here = Inbox(log, "edge-1")
    await here.start()
    readers = [here.open(f"{RUN[:-3]}{n:03}") for n in range(120)]
    waiting = [asyncio.create_task(reader.next(float("inf"))) for reader in readers]
    await asyncio.sleep(0)
    for _ in range(3):
        for reader in readers:
            reader.quiet_since = LONG_AGO
        here._tick()
        async with asyncio.timeout(30):
            for _ in range(50):
                await log.looked.acquire()

    assert len(set(log.read)) == 120
    for task in waiting:
        task.cancel()
    await here.close()


async def test_a_wait_ends_at_its_time() -> None:
    log = FakeLog(History())
    here = Inbox(log, "edge-1")
    await here.start()
    reader = here.open(RUN)
    now = asyncio.get_running_loop().time()

    assert await reader.next(now + 0.01) == b""

    await here.close()


async def test_a_frame_of_another_version_is_an_error_not_a_silent_end() -> None:
    log = FakeLog(History([(1, b"\x09" * 40)]))
    reader = _reader(log)
    reader.on_live(log.live(0))

    with pytest.raises(InternalError):
        await reader.next(LONG_AGO)


@pytest.mark.parametrize("missing", [1, 2])
async def test_a_run_whose_beginning_has_expired_is_not_found(missing: int) -> None:
    whole = [(1, _fence()), (2, _data(0, b"a")), (3, _data(1, b"b", frames.COMMIT))]
    log = FakeLog(History(whole[missing:]), visible=3 - missing)
    reader = _reader(log, behind=True)

    with pytest.raises(NotFound):
        await reader.next(LONG_AGO)


async def test_released_readers_are_forgotten() -> None:
    log = FakeLog(History())
    here = Inbox(log, "edge-1")
    await here.start()
    first, second = here.open(RUN), await here.attach(RUN)

    await here.release(first)
    assert here.is_read(RUN)
    await here.release(second)
    await here.release(second)

    assert not here.is_read(RUN)
    assert len(here) == 0
    assert log.handlers[subjects.live_anywhere(RUN)] == []
    await here.close()


def test_sequences_are_read_from_the_servers_headers_only() -> None:
    headers = (
        b"NATS/1.0\r\nNats-Expected-Last-Sequence: 5\r\nNats-Sequence: 17\r\n"
        b"Nats-Last-Sequence: 12\r\n\r\n"
    )
    assert inbox._number(headers, inbox._SEQUENCE) == 17
    assert inbox._number(headers, inbox._LAST_SEQUENCE) == 12
    assert inbox._number(b"NATS/1.0\r\n\r\n", inbox._SEQUENCE) == -1
