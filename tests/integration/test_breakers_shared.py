"""Breakers of several workers over a real bucket: one trial at a time, one truth, no owner."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from bus import Bucket, open_bus
from schemas import subjects
from schemas.errors import UpstreamError
from schemas.health import key_of
from schemas.providers import BreakerSettings
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.waiting import until
from workers.inference.breakers import Breakers, open_breakers

NAME = "one/m"


@pytest_asyncio.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    with running_nats(tmp_path / "nats") as server:
        await migrate(server)
        yield server


@asynccontextmanager
async def breakers_of(nats: NatsServer, name: str) -> AsyncIterator[Breakers]:
    settings = BreakerSettings(open_s=0.2)
    async with (
        open_bus(nats.url("inference"), name=name) as bus,
        open_breakers(bus, settings, name) as breakers,
    ):
        yield breakers


async def open_it(breakers: Breakers) -> None:
    for _ in range(3):
        breakers.note_failure(NAME, UpstreamError("no"))
    await breakers.settle()


@pytest.mark.requirement("routing.breaker")
async def test_of_many_workers_one_tries_it_out_and_all_learn_what_came_of_it(
    nats: NatsServer,
) -> None:
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(breakers_of(nats, f"inference-{number}"))
            for number in range(5)
        ]
        await open_it(workers[0])
        for _ in range(3):
            await until(lambda: all(one.state_of(NAME).state == "open" for one in workers))
            await until(lambda: not any(one.is_down(NAME) for one in workers))
            claimed = await asyncio.gather(*(one.claim(NAME) for one in workers))
            assert claimed.count(True) == 1
            trier = workers[claimed.index(True)]
            await until(lambda: all(one.is_down(NAME) for one in workers))
            trier.note_failure(NAME, UpstreamError("still no"))
            await trier.settle()
        await until(lambda: not any(one.is_down(NAME) for one in workers))
        claimed = await asyncio.gather(*(one.claim(NAME) for one in workers))
        workers[claimed.index(True)].note_success(NAME, time.time())
        await until(lambda: all(one.state_of(NAME).state == "closed" for one in workers))


async def test_a_worker_that_starts_knows_what_one_that_is_gone_found_out(
    nats: NatsServer,
) -> None:
    async with breakers_of(nats, "inference-1") as first:
        await open_it(first)
    async with breakers_of(nats, "inference-2") as second:
        assert second.state_of(NAME).reason == "no"


async def test_a_breaker_that_stays_open_is_told_again_before_the_bucket_forgets_it(
    nats: NatsServer,
) -> None:
    async with breakers_of(nats, "inference-1") as first:
        await open_it(first)
    async with breakers_of(nats, "inference-2") as second:
        revisions: list[int] = []
        async with open_bus(nats.url("inference"), name="reader") as bus:
            watch = await Bucket(bus, subjects.KV_HEALTH).watch(
                lambda key, _value, revision: (
                    revisions.append(revision) if key == key_of(NAME) else None
                ),
                prefix="deployment",
            )
            await until(lambda: len(revisions) == 2, timeout=12)
            await watch.stop()
        assert second.state_of(NAME).state == "open"


async def test_what_expired_in_the_bucket_can_be_opened_again(nats: NatsServer) -> None:
    async with breakers_of(nats, "inference-1") as breakers:
        await open_it(breakers)
        async with open_bus(nats.url("inference"), name="other") as bus:
            # As an expiry does, a deletion leaves the worker with a revision that is no more.
            await Bucket(bus, subjects.KV_HEALTH).delete(key_of(NAME))
            await until(lambda: not breakers.is_down(NAME))
            assert await breakers.claim(NAME)
            breakers.note_failure(NAME, UpstreamError("again"))
            await breakers.settle()
            entry = await Bucket(bus, subjects.KV_HEALTH).get(key_of(NAME))
    assert entry is not None
    assert b"again" in entry.value
