"""Fence, append, commit and fold under generated histories of deaths, losses and freezes."""

import asyncio
from random import Random
from typing import NamedTuple

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from schemas import frames
from schemas.history import DONE, History, to_run_finished
from tests.support.fake_subject import Connection, FakeSubject
from tests.support.virtual_time import run_in_virtual_time
from workers.runtime.writer import Lost, Refused, Writer, take_over

TEXT = [b'{"t":%d}' % number for number in range(12)]
SUBJECT = "frames.edge-1.run_x"


class Fate(NamedTuple):
    """What becomes of one delivery: it starts, and then ends, or is killed or frozen."""

    start: float
    kind: str
    after: float
    frozen_for: float
    big_steps: bool


FATES = st.builds(
    Fate,
    start=st.floats(0, 3),
    kind=st.sampled_from(["lives", "killed", "frozen"]),
    after=st.floats(0, 2),
    frozen_for=st.floats(0.1, 6),
    big_steps=st.booleans(),
)


class Told:
    """What the workers believe in the end."""

    def __init__(self) -> None:
        self.finished: list[bytes] = []
        self.acked = False


async def deliver(link: Connection, attempt: int, told: Told, random: Random) -> None:
    """Carry the run out, as one delivery does."""
    owner = f"owner-{attempt}"
    fence = frames.Fence(owner, attempt, f"worker-{attempt}", 0.0)
    stopped: list[Exception] = []
    try:
        if attempt == 1:
            writer = Writer(link, SUBJECT, owner, History(), on_stop=stopped.append)
            writer.fence(fence, lambda _: None)
            try:
                await write(link, writer, stopped, told, random)
                return
            except Refused:
                stopped.clear()
        history, epoch = await take_over(link, SUBJECT, fence, lambda: None)
        writer = Writer(link, SUBJECT, owner, history, epoch=epoch, on_stop=stopped.append)
        await write(link, writer, stopped, told, random)
    except Lost:
        return


async def write(
    link: Connection, writer: Writer, stopped: list[Exception], told: Told, random: Random
) -> None:
    if writer.history.commit is None:
        while len(writer.history.chunks) < len(TEXT):
            await link.step(random.choice((0.0, 0.01, 0.2)))
            if stopped:
                raise stopped[0]
            start = len(writer.history.chunks)
            writer.send(TEXT[start : start + random.randint(1, 4)])
            if random.random() < 0.2:
                await writer.drain()
        await writer.commit(frames.Commit("completed"), chunk=DONE)
    told.finished.append(to_run_finished("run_x", writer.history))
    if not writer.history.ended:
        await writer.end(7)
    told.acked = True


async def live_through(
    fates: list[Fate], random: Random, faults: float
) -> tuple[FakeSubject, Told]:
    """Play a history, then deliver to workers that live until one acks."""
    subject = FakeSubject(SUBJECT, random)
    told = Told()
    loop = asyncio.get_running_loop()
    deliveries = []
    for number, fate in enumerate(sorted(fates), 1):
        link = Connection(subject, random, faults)
        await asyncio.sleep(max(0.0, fate.start - loop.time()))
        delivery = asyncio.create_task(deliver(link, number, told, random))
        deliveries.append(delivery)
        if fate.kind == "killed":
            loop.call_later(fate.after, link.kill)
            loop.call_later(fate.after, delivery.cancel)
        elif fate.kind == "frozen":
            loop.call_later(fate.after, link.freeze)
            loop.call_later(fate.after + fate.frozen_for, link.thaw)
    number = len(fates)
    while not told.acked:
        number += 1
        link = Connection(subject, random, faults)
        await deliver(link, number, told, random)
    results = await asyncio.gather(*deliveries, return_exceptions=True)
    faults_of_ours = [error for error in results if isinstance(error, Exception)]
    assert not faults_of_ours, faults_of_ours
    await asyncio.sleep(10)  # what is still under way arrives
    return subject, told


def check(subject: FakeSubject, told: Told) -> None:
    """Every reader sees a prefix of the one text, and in the end all of it."""
    fold = frames.Fold()
    shown: list[bytes] = []
    history = History()
    again = frames.Fold()
    for stored in subject.stored:
        frame = fold.apply(stored.seq, stored.data)
        history.read(again, stored.seq, stored.data)
        if frame is not None:
            shown += frames.split_events(frame.data)
            assert shown == wanted()[: len(shown)]
    assert shown == wanted()
    assert fold.committed
    for finished in told.finished:
        assert finished == to_run_finished("run_x", history)


def wanted() -> list[bytes]:
    """The undisturbed text."""
    return [frames.sse(index, chunk) for index, chunk in enumerate([*TEXT, DONE])]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    fates=st.lists(FATES, max_size=4),
    seed=st.integers(0, 2**32),
    faults=st.sampled_from([0.0, 0.05, 0.3]),
)
@example(fates=[], seed=0, faults=0.0)
def test_every_reader_sees_one_text_whatever_happens_to_workers(
    fates: list[Fate], seed: int, faults: float
) -> None:
    subject, told = run_in_virtual_time(lambda: live_through(fates, Random(seed), faults))
    check(subject, told)
