"""The subject in memory that the protocol is tested on keeps the promises of the real one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bus import Ack, open_bus
from schemas import frames
from schemas.errors import BusError, WrongLastSequence
from schemas.history import DONE, History
from tests.support.fake_subject import Connection, FakeSubject
from tests.support.nats import migrate, running_nats
from workers.runtime.writer import Log, Lost, Writer, take_over

SUBJECT = "frames.edge-1.run_x"


@asynccontextmanager
async def real(folder: Path) -> AsyncIterator[Log]:
    with running_nats(folder / "nats") as server:
        await migrate(server)
        async with open_bus(server.url("inference"), name="contract") as bus:
            yield bus


@asynccontextmanager
async def fake(_: Path) -> AsyncIterator[Log]:
    yield Connection(FakeSubject(SUBJECT))


both = pytest.mark.parametrize("open_log", [fake, real])


async def store(log: Log, data: bytes, expect_last: int | None) -> Ack | BusError:
    answer: asyncio.Future[Ack | BusError] = asyncio.get_running_loop().create_future()
    log.send_stored(SUBJECT, data, answer.set_result, expect_last=expect_last)
    return await asyncio.wait_for(answer, 5)


async def read(log: Log, start: int = 1) -> list[tuple[int, bytes]]:
    return [
        (stored.seq, stored.data) async for stored in log.read_subject("TOKENS", SUBJECT, start)
    ]


@both
async def test_a_message_is_taken_only_after_the_one_it_expects(open_log, tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with open_log(tmp_path) as log:
        assert await read(log) == []
        first = await store(log, b"a", 0)
        assert isinstance(first, Ack)
        assert isinstance(await store(log, b"b", 0), WrongLastSequence)
        second = await store(log, b"c", first.seq)
        assert isinstance(second, Ack)
        assert isinstance(await store(log, b"d", first.seq), WrongLastSequence)
        third = await store(log, b"e", None)
        assert isinstance(third, Ack)
        assert await read(log) == [(first.seq, b"a"), (second.seq, b"c"), (third.seq, b"e")]
        assert await read(log, second.seq) == [(second.seq, b"c"), (third.seq, b"e")]
        assert await read(log, third.seq + 1) == []


@both
async def test_one_worker_takes_over_from_another(open_log, tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with open_log(tmp_path) as log:
        stopped: list[Exception] = []
        first = Writer(log, SUBJECT, "a", History(), on_stop=stopped.append)
        first.fence(frames.Fence("a", 1, "one", 0.0), _ignore)
        first.send([b"1", b"2"])
        await first.drain()
        fence = frames.Fence("b", 2, "two", 0.0)
        history, epoch = await take_over(log, SUBJECT, fence, lambda: None)
        second = Writer(log, SUBJECT, "b", history, epoch=epoch, on_stop=stopped.append)
        first.send([b"zombie"])
        with pytest.raises(Lost):
            await first.drain()
        second.send([b"3"])
        await second.commit(frames.Commit("completed"), chunk=DONE)
        await second.end(1)
        fold = frames.Fold()
        shown = [fold.apply(seq, data) for seq, data in await read(log)]
        text = b"".join(frame.data for frame in shown if frame is not None)
        wanted = [b"1", b"2", b"3", DONE]
        assert text == b"".join(frames.sse(index, chunk) for index, chunk in enumerate(wanted))
        assert fold.ended


def _ignore(_: int) -> None:
    """The epoch is of no interest here."""
