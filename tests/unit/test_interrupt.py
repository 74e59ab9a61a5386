"""Interrupting what a run awaits; reading what the server says of a delivery."""

import asyncio

import pytest

from schemas.errors import Cancelled, DeadlineExceeded
from workers.runtime.delivery import read_ack_subject
from workers.runtime.interrupt import Interrupt
from workers.runtime.writer import Lost


async def test_a_scope_ends_with_the_reason() -> None:
    interrupt = Interrupt()
    asyncio.get_running_loop().call_soon(interrupt, Cancelled("enough"))
    with pytest.raises(Cancelled, match="enough"), interrupt.scope():
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_reason_from_before_waits_for_the_scope() -> None:
    interrupt = Interrupt()
    interrupt(Cancelled("early"))
    with pytest.raises(Cancelled), interrupt.scope():
        pytest.fail("the scope was entered")


async def test_the_gravest_reason_counts() -> None:
    interrupt = Interrupt()
    interrupt(DeadlineExceeded("late"))
    interrupt(Lost("gone"))
    with pytest.raises(Lost):
        interrupt.check()
    interrupt.forget(Lost)
    with pytest.raises(DeadlineExceeded):
        interrupt.check()
    interrupt.check(Lost)


async def test_the_reason_counts_whatever_came_of_the_cancellation() -> None:
    interrupt = Interrupt()
    asyncio.get_running_loop().call_soon(interrupt, Cancelled("enough"))

    async def be_clumsy() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("a clumsy engine") from None

    with pytest.raises(Cancelled), interrupt.scope():
        await be_clumsy()


async def test_a_cancellation_from_outside_goes_through() -> None:
    interrupt = Interrupt()

    async def work() -> None:
        with interrupt.scope():
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_after_the_scope_a_reason_interrupts_nothing() -> None:
    interrupt = Interrupt()
    with interrupt.scope():
        await asyncio.sleep(0)
    interrupt(Cancelled("too late"))
    await asyncio.sleep(0)


def test_both_forms_of_ack_subjects_are_read() -> None:
    short = read_ack_subject("$JS.ACK.JOBS.inference-remote-interactive.3.41.77.1700000000.9")
    long = read_ack_subject(
        "$JS.ACK.hub.ACCHASH.JOBS.inference-remote-interactive.3.41.77.1700000000.9.random"
    )
    assert short == long
    assert (short.delivered, short.sequence) == (3, 41)


@pytest.mark.parametrize("subject", ["", "jobs.inference.remote.interactive", "$JS.ACK.JOBS.a.1"])
def test_what_is_no_ack_subject_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match="not an ack subject"):
        read_ack_subject(subject)
