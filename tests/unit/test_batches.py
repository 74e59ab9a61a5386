"""When a batch begins: at once, after a pause, or early for somebody who waits."""

import asyncio
from typing import Any, cast

from bus.pull import Batches, Delivery
from tests.support.virtual_time import run_in_virtual_time

PAUSE = 1.0
HURRY = 0

Begun = list[tuple[float, list[int]]]


def batches_of(*events: tuple[float, list[int]]) -> Begun:
    """When which batches of three at most begin, if these come at these times."""

    async def run() -> Begun:
        loop = asyncio.get_running_loop()
        began: Begun = []

        async def on_batch(batch: list[Delivery]) -> None:
            began.append((round(loop.time(), 3), sorted(cast("list[int]", batch))))
            await asyncio.sleep(0.1)

        batches = Batches(3, PAUSE, on_batch)
        running = asyncio.create_task(batches.run())
        for at, numbers in events:
            for number in numbers:
                if number == HURRY:
                    loop.call_at(at, batches.hurry)
                else:
                    loop.call_at(at, batches.put, cast(Any, number))
        await asyncio.sleep(20)
        batches.stop()
        await running
        return began

    return run_in_virtual_time(run)


def test_the_first_begins_at_once_and_the_next_after_a_pause() -> None:
    came = batches_of((5.0, [1]), (5.2, [2]), (5.3, [3]))
    assert came == [(5.0, [1]), (6.0, [2, 3])]


def test_a_full_batch_does_not_wait() -> None:
    came = batches_of((5.0, [1]), (5.2, [2, 3, 4]), (5.3, [5]))
    assert came == [(5.0, [1]), (5.2, [2, 3, 4]), (6.2, [5])]


def test_nor_does_one_that_somebody_waits_for() -> None:
    came = batches_of((5.0, [1]), (5.2, [2]), (5.3, [HURRY]), (5.5, [3]))
    assert came == [(5.0, [1]), (5.3, [2]), (6.3, [3])]


def test_who_waits_for_what_has_not_come_gets_it_as_it_comes() -> None:
    came = batches_of((5.0, [1]), (5.2, [HURRY]), (5.4, [2]), (5.5, [3]))
    assert came == [(5.0, [1]), (5.4, [2]), (6.4, [3])]
