"""What is asked while something is read is read together, next."""

import asyncio
from collections.abc import Sequence

import pytest

from schemas.errors import NotFound
from workers.persistence.gathering import Gathering


class Reader:
    """Answers in capitals once it may; notes what it was asked together."""

    def __init__(self) -> None:
        self.read: list[list[str]] = []
        self.may = asyncio.Event()

    async def __call__(self, asked: Sequence[str]) -> list[str | Exception]:
        self.read.append(list(asked))
        await self.may.wait()
        if "fault" in asked:
            raise RuntimeError("a fault")
        return [NotFound(one) if one == "missing" else one.upper() for one in asked]


async def ask(gathering: Gathering[str, str], *asked: str) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(gathering.read(one)) for one in asked]
    await asyncio.sleep(0)  # they run
    await asyncio.sleep(0)  # and what they have begun does
    return tasks


async def test_who_asks_meanwhile_is_answered_together_and_each_with_its_own() -> None:
    reader = Reader()
    gathering = Gathering(reader)
    first = await ask(gathering, "a")
    later = await ask(gathering, "b", "missing", "c")
    reader.may.set()
    told = await asyncio.gather(*first, *later, return_exceptions=True)
    assert reader.read == [["a"], ["b", "missing", "c"]]
    assert [str(one) for one in told] == ["A", "B", "missing", "C"]
    assert isinstance(told[2], NotFound)
    assert await gathering.read("d") == "D"


async def test_what_fails_is_told_to_all_and_the_next_are_read() -> None:
    reader = Reader()
    gathering = Gathering(reader)
    first = await ask(gathering, "a", "fault")
    later = await ask(gathering, "b")
    reader.may.set()
    told = await asyncio.gather(*first, return_exceptions=True)
    assert [type(one) for one in told] == [RuntimeError, RuntimeError]
    assert await later[0] == "B"


async def test_who_no_longer_waits_keeps_nobody_from_an_answer() -> None:
    reader = Reader()
    gone, stays = await ask(gathering := Gathering(reader), "a", "b")
    gone.cancel()
    reader.may.set()
    assert await stays == "B"
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await gathering.read("c") == "C"


async def test_many_are_read_some_at_a_time() -> None:
    reader = Reader()
    reader.may.set()
    asked = [str(number) for number in range(100)]
    assert [await one for one in await ask(Gathering(reader), *asked)] == asked
    assert [len(together) for together in reader.read] == [32, 32, 32, 4]
