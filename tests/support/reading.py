"""Reading what is stored of a run, and cancelling it: the same for calls of tools."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from bus import Bus, open_bus
from schemas import frames, subjects
from schemas.commands import CancelRun, encode
from tests.support.nats import NatsServer


@dataclass
class Stored:
    """What is stored of a run: its frames that count, and who has taken it."""

    fold: frames.Fold = field(default_factory=frames.Fold)
    data: list[frames.Frame] = field(default_factory=list)
    fences: list[frames.Fence] = field(default_factory=list)


StoredT = TypeVar("StoredT", bound=Stored)


@asynccontextmanager
async def connected(server: NatsServer, edge: str) -> AsyncIterator[tuple[Bus, Bus]]:
    """Connect as an edge does, and as an operator who may look at everything."""
    async with (
        open_bus(server.url("edge"), name=edge) as bus,
        open_bus(server.url("cli"), name="observer") as observer,
    ):
        yield bus, observer


async def read(bus: Bus, edge: str, run_id: str, reading: StoredT) -> StoredT:
    """Read a run's frames into `reading`."""
    async for stored in bus.read_subject(subjects.TOKENS, subjects.frames(edge, run_id)):
        decoded = frames.decode(stored.data)
        if decoded.kind == frames.FENCE:
            reading.fences.append(frames.decode_fence(decoded.trailer))
        frame = reading.fold.apply(stored.seq, stored.data)
        if frame is not None:
            reading.data.append(frame)
    return reading


async def read_until(
    bus: Bus,
    edge: str,
    run_id: str,
    new: Callable[[], StoredT],
    enough: Callable[[StoredT], bool],
    timeout: float,
) -> StoredT:
    """Read a run whenever there is news of it, until what is stored is enough."""
    news = asyncio.Event()
    subscription = await bus.subscribe(subjects.live_anywhere(run_id), lambda _: news.set())
    try:
        async with asyncio.timeout(timeout):
            while True:
                news.clear()
                reading = await read(bus, edge, run_id, new())
                if enough(reading):
                    return reading
                await news.wait()
    finally:
        await subscription.unsubscribe()


async def cancel(bus: Bus, run_id: str) -> None:
    """Cancel a run, with its parts."""
    await bus.store(subjects.cancel(run_id), encode(CancelRun(run_id, "the test wants it")))
