"""A run's writer in append mode, on a subject in memory and in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from bus import Ack, Stored
from schemas import frames
from schemas.errors import BusError, BusTimeout
from schemas.history import DONE, History
from tests.support.fake_subject import Connection, FakeSubject
from tests.support.virtual_time import run_in_virtual_time
from workers.runtime.writer import MAX_MESSAGE, Lost, Refused, Writer, take_over

SUBJECT = "frames.edge-1.run_x"
COMMIT = frames.Commit("completed")


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        run_in_virtual_time(test)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def fence_of(owner: str) -> frames.Fence:
    return frames.Fence(owner, 1, "worker", 0.0)


class Stage:
    """A subject, a connection to it, and a writer with a fence on its way."""

    def __init__(self, log: Connection | None = None) -> None:
        self.subject = FakeSubject(SUBJECT)
        self.log = log or Connection(self.subject)
        self.stopped: list[Exception] = []
        self.opened: list[int] = []
        self.writer = Writer(self.log, SUBJECT, "me", History(), on_stop=self.stopped.append)

    def fence(self) -> None:
        self.writer.fence(fence_of("me"), self.opened.append)

    def intrude(self) -> None:
        """Another worker takes the run."""
        fence = frames.encode(frames.FENCE, trailer=frames.encode_trailer(fence_of("other")))
        self.subject.store(SUBJECT, fence, None)

    def data(self) -> list[frames.Frame]:
        decoded = [frames.decode(stored.data) for stored in self.subject.stored]
        return [frame for frame in decoded if frame.kind == frames.DATA]


class Forgetful(Connection):
    """Loses the answers to some messages, by their number: `before` or `after` they are stored."""

    def __init__(self, subject: FakeSubject, losses: dict[int, str]) -> None:
        super().__init__(subject)
        self._losses = losses
        self._number = 0
        self.broken = False

    def send_stored(
        self,
        subject: str,
        data: bytes,
        on_ack: Callable[[Ack | BusError], None],
        *,
        expect_last: int | None = None,
        timeout: float = 5.0,
    ) -> None:
        self._number += 1
        loss = self._losses.get(self._number)
        if loss is None:
            super().send_stored(subject, data, on_ack, expect_last=expect_last, timeout=timeout)
            return
        if loss == "after":
            self._subject.store(subject, data, expect_last)
        asyncio.get_running_loop().call_soon(on_ack, BusTimeout("unknown"))

    async def read_subject(
        self, stream: str, subject: str, start_seq: int = 1
    ) -> AsyncIterator[Stored]:
        if self.broken:
            self.broken = False
            raise BusTimeout("the reading was cut off")
        async for stored in super().read_subject(stream, subject, start_seq):
            yield stored


def forgetful(**losses: str) -> Stage:
    """A stage that loses answers, e.g. m2="after": that to the second message, once stored."""
    stage = Stage()
    numbered = {int(name[1:]): when for name, when in losses.items()}
    stage.log = Forgetful(stage.subject, numbered)
    stage.writer = Writer(stage.log, SUBJECT, "me", History(), on_stop=stage.stopped.append)
    return stage


@in_virtual_time
async def test_frames_wait_for_the_fence_and_then_go_together() -> None:
    stage = Stage()
    stage.fence()
    stage.writer.send([b"1"])
    stage.writer.send([b"2", b"3"])
    await stage.writer.drain()
    (frame,) = stage.data()
    assert (frame.epoch, frame.first, frame.events) == (stage.opened[0], 0, 3)
    assert frame.data == b"id: 0\ndata: 1\n\nid: 1\ndata: 2\n\nid: 2\ndata: 3\n\n"


@in_virtual_time
async def test_what_comes_while_a_message_is_unacked_goes_into_the_next() -> None:
    stage = Stage()
    stage.fence()
    await stage.writer.drain()
    stage.writer.send([b"1"])
    stage.writer.send([b"2"])
    stage.writer.send([b"3"])
    await stage.writer.drain()
    assert [(frame.first, frame.events) for frame in stage.data()] == [(0, 1), (1, 2)]


@in_virtual_time
async def test_every_message_expects_the_one_before() -> None:
    stage = Stage()
    stage.fence()
    await stage.writer.drain()
    stage.intrude()
    stage.writer.send([b"1"])
    with pytest.raises(Lost):
        await stage.writer.drain()
    assert isinstance(stage.stopped[0], Lost)
    assert not stage.data()


@in_virtual_time
async def test_a_large_backlog_is_cut_into_messages() -> None:
    stage = Stage()
    stage.fence()
    stage.writer.send([b"x" * 100_000] * 7 + [b"y" * (MAX_MESSAGE + 1)])
    await stage.writer.commit(COMMIT, chunk=DONE)
    assert [frame.events for frame in stage.data()] == [2, 2, 2, 1, 1, 1]
    assert [bool(frame.flags) for frame in stage.data()] == [False] * 5 + [True]
    assert stage.writer.backlog() == 0


@in_virtual_time
async def test_an_engines_state_is_stored_with_its_chunks() -> None:
    stage = Stage()
    stage.fence()
    stage.writer.send([b"1"], b"a")
    stage.writer.send([b"2", b"3"], b"bc")
    await stage.writer.drain()
    stage.writer.send([b"x" * 200_000] * 2, b"d")
    await stage.writer.drain()
    told = [(frame.events, frame.trailer) for frame in stage.data()]
    assert told == [(3, b"abc"), (1, b""), (1, b"d")], "with the last of a batch that was cut"
    history, _ = await take_over(stage.log, SUBJECT, fence_of("another"), lambda: None)
    assert bytes(history.state) == bytes(stage.writer.history.state) == b"abcd"


@in_virtual_time
async def test_the_commit_carries_the_last_frames() -> None:
    stage = Stage()
    stage.fence()
    stage.writer.send([b"1"])
    await stage.writer.commit(COMMIT, chunk=DONE)
    await stage.writer.end(42)
    fold = frames.Fold()
    for stored in stage.subject.stored:
        fold.apply(stored.seq, stored.data)
    assert (fold.next, fold.committed, fold.ended, fold.event_seq) == (2, True, True, 42)
    (frame,) = stage.data()
    assert frames.decode_commit(frame.trailer) == COMMIT


@in_virtual_time
async def test_a_message_whose_ack_was_lost_is_found_in_the_stream() -> None:
    stage = forgetful(m2="after")
    stage.fence()
    stage.writer.send([b"1"])
    await stage.writer.commit(COMMIT, chunk=DONE)
    assert b"".join(frame.data for frame in stage.data()) == b"id: 0\ndata: 1\n\n" + frames.sse(
        1, DONE
    )


@in_virtual_time
async def test_a_message_that_was_lost_is_sent_again() -> None:
    stage = forgetful(m2="before", m3="before")
    stage.fence()
    stage.writer.send([b"1"])
    await stage.writer.drain()
    assert len(stage.data()) == 1


@in_virtual_time
async def test_a_reading_that_breaks_off_is_not_believed() -> None:
    stage = forgetful(m2="after")
    assert isinstance(stage.log, Forgetful)
    stage.fence()
    stage.writer.send([b"1"])
    stage.log.broken = True
    await stage.writer.drain()
    assert len(stage.data()) == 1


@in_virtual_time
async def test_a_first_fence_without_an_answer_must_be_looked_into() -> None:
    for loss in ("before", "after"):
        stage = forgetful(m1=loss)
        stage.fence()
        with pytest.raises(Refused):
            await stage.writer.drain()
        assert isinstance(stage.stopped[0], Refused)


@in_virtual_time
async def test_an_unfenced_result_is_refused_if_anything_came_before() -> None:
    stage = Stage()
    stage.intrude()
    with pytest.raises(Refused):
        await stage.writer.commit(COMMIT, body=[b"{}"], flags=frames.RESULT)


@in_virtual_time
async def test_parts_of_a_body_are_marked_and_only_the_last_commits() -> None:
    stage = Stage()
    stage.fence()
    parts = [b"x" * MAX_MESSAGE, b"y"]
    await stage.writer.commit(COMMIT, body=parts, flags=frames.RESULT)
    flags = [frame.flags for frame in stage.data()]
    assert flags == [frames.RESULT, frames.RESULT | frames.COMMIT]
    assert [frame.data for frame in stage.data()] == parts


@in_virtual_time
async def test_nothing_is_sent_after_a_close() -> None:
    stage = Stage()
    stage.fence()
    await stage.writer.drain()
    stage.writer.send([b"1"])
    draining = asyncio.create_task(stage.writer.drain())
    await asyncio.sleep(0)
    stage.writer.close(Lost("frozen"))
    with pytest.raises(Lost):
        await draining
    stage.writer.send([b"2"])
    await asyncio.sleep(10)
    assert [frame.events for frame in stage.data()] == [1]


@in_virtual_time
async def test_taking_over_reads_through_the_own_fence() -> None:
    stage = Stage()
    stage.fence()
    stage.writer.send([b"1", b"2"])
    await stage.writer.drain()
    history, epoch = await take_over(stage.log, SUBJECT, fence_of("next"), lambda: None)
    assert epoch == stage.subject.stored[-1].seq
    assert history.chunks == [b"1", b"2"]
    assert [attempt.epoch for attempt in history.attempts] == [stage.opened[0], epoch]
    stage.writer.send([b"3"])
    with pytest.raises(Lost):
        await stage.writer.drain()


@in_virtual_time
async def test_taking_over_ends_when_it_is_told_to() -> None:
    stage = Stage(None)

    def check() -> None:
        raise Lost("frozen")

    with pytest.raises(Lost):
        await take_over(stage.log, SUBJECT, fence_of("me"), check)


@in_virtual_time
async def test_what_the_last_chunk_says_is_known_to_the_writer_as_to_its_readers() -> None:
    stage = Stage()
    stage.fence()
    stage.writer.send([b'{"n":1}'])
    await stage.writer.commit(COMMIT, chunk=b'{"n":2}')
    read, _ = await take_over(stage.log, SUBJECT, fence_of("other"), lambda: None)
    assert stage.writer.history.chunks == read.chunks == [b'{"n":1}', b'{"n":2}']
