"""The inference worker between nats-server and HTTP upstreams: failover, cancels, outages."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from schemas import frames
from schemas.commands import Target
from schemas.providers import Providers, read_providers
from tests.support.inference import MODEL, Desk, running_worker
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.upstream import Body, Cut, Fail, Silent, Upstream, open_upstream

FIRST, SECOND = Target(f"one/{MODEL}", "remote"), Target(f"two/{MODEL}", "remote")
BOTH = [FIRST, SECOND]


@pytest_asyncio.fixture
async def one() -> AsyncIterator[Upstream]:
    async with open_upstream() as upstream:
        yield upstream


@pytest_asyncio.fixture
async def two() -> AsyncIterator[Upstream]:
    async with open_upstream() as upstream:
        yield upstream


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    with running_nats(tmp_path / "nats") as running:
        await migrate(running, providers_of())
        yield running


def providers_of(*upstreams: Upstream, **options: Any) -> Providers:
    """A provider for each upstream, all with the one model."""
    urls = [upstream.base_url for upstream in upstreams] or ["http://127.0.0.1:1/v1"]
    providers = [
        {
            "name": name,
            "kind": "openai",
            "base_url": url,
            "models": [{"id": MODEL}],
            "options": options,
        }
        for name, url in zip(("one", "two"), urls, strict=False)
    ]
    return read_providers(msgspec.json.encode({"providers": providers}).decode())


async def test_the_next_deployment_answers_when_the_first_fails(
    server: NatsServer, desk: Desk, one: Upstream, two: Upstream
) -> None:
    async with running_worker(server, providers_of(one, two)):
        for stream in (True, False):
            one.script(Fail(503))
            job = await desk.submit(targets=BOTH, stream=stream)
            reading = await desk.until(job.run_id)
            assert reading.commit.status == "completed"
            assert reading.commit.deployment == SECOND.deployment
    assert (len(one.calls), len(two.calls)) == (2, 2)


OPENING = (
    b'data: {"id":"x","model":"x","choices":[{"index":0,"delta":{"role":"assistant","content":""},'
    b'"finish_reason":null}]}\n\n'
)


@pytest.mark.requirement("errors.upstream.hang")
@pytest.mark.parametrize("piece", [b": ping\n\n", OPENING])
@pytest.mark.parametrize("end", ["hang", "cut"])
async def test_the_next_deployment_answers_when_the_first_shows_only_signs_of_life(
    server: NatsServer, desk: Desk, one: Upstream, two: Upstream, piece: bytes, end: str
) -> None:
    async with running_worker(server, providers_of(one, two, first_token_s=0.5)):
        one.script(Body([piece] * 3, end=end))
        job = await desk.submit("!tokens 5", targets=BOTH)
        reading = await desk.until(job.run_id)
    assert reading.commit.status == "completed"
    assert reading.commit.deployment == SECOND.deployment


async def test_a_request_that_is_refused_is_not_tried_elsewhere(
    server: NatsServer, desk: Desk, one: Upstream, two: Upstream
) -> None:
    async with running_worker(server, providers_of(one, two)):
        one.script(Fail(422))
        job = await desk.submit(targets=BOTH)
        reading = await desk.until(job.run_id)
    assert reading.data[0].status == 422
    assert not two.calls


async def test_a_model_that_one_deployment_has_lost_is_answered_by_the_next(
    server: NatsServer, desk: Desk, one: Upstream, two: Upstream
) -> None:
    one.always = Fail(404)
    async with running_worker(server, providers_of(one, two)):
        for stream in (True, False) * 4:
            job = await desk.submit(targets=BOTH, stream=stream)
            assert (await desk.until(job.run_id)).commit.deployment == SECOND.deployment
        assert len(one.calls) == 8, "no client can close a deployment by asking for what is not"
        two.always = Fail(404)
        job = await desk.submit(targets=BOTH)
        reading = await desk.until(job.run_id)
    assert reading.data[0].status == 404
    assert (len(one.calls), len(two.calls)) == (9, 9), "nor is it there a moment later"


async def test_the_last_failure_is_told_when_all_fail(
    server: NatsServer, desk: Desk, one: Upstream, two: Upstream
) -> None:
    async with running_worker(server, providers_of(one, two)):
        one.script(*[Fail(500)] * 9)
        two.script(Fail(429, headers={"retry-after": "70"}))
        job = await desk.submit(targets=BOTH)
        reading = await desk.until(job.run_id)
    (frame,) = reading.data
    assert frame.status == 429
    error = msgspec.json.decode(frames.chunk_of(frame.data))["error"]
    assert 60 < error["retry_after"] <= 70
    assert len(two.calls) == 1


async def test_a_stream_that_breaks_off_ends_with_an_error(
    server: NatsServer, desk: Desk, one: Upstream, two: Upstream
) -> None:
    async with running_worker(server, providers_of(one, two)):
        one.script(Cut(after=3))
        job = await desk.submit("!tokens 20", targets=BOTH)
        reading = await desk.until(job.run_id)
    assert reading.data[-1].flags == frames.ERROR | frames.COMMIT
    assert reading.fold.next > 1
    assert not two.calls


async def test_a_stream_that_breaks_off_goes_on_where_the_upstream_can(
    server: NatsServer, desk: Desk, one: Upstream, two: Upstream
) -> None:
    async with running_worker(server, providers_of(one, two, continue_final_message=True)):
        one.script(Cut(after=3))
        job = await desk.submit("!tokens 20", targets=BOTH)
        reading = await desk.until(job.run_id)
    assert reading.commit.status == "completed"
    assert reading.fold.next > 3
    calls = [*one.calls, *two.calls]
    assert len(calls) == 2
    assert calls[1].body["messages"][-1]["role"] == "assistant"


async def test_a_cancel_closes_the_upstreams_request(
    server: NatsServer, desk: Desk, one: Upstream
) -> None:
    async with running_worker(server, providers_of(one)):
        for stream in (True, False):
            one.reset()
            one.script(Silent())
            job = await desk.submit(targets=[FIRST], stream=stream)
            (call,) = await one.count(1)
            await desk.cancel(job.run_id)
            await asyncio.wait_for(call.closed.wait(), 0.2)
            reading = await desk.until(job.run_id)
            assert reading.commit.status == "cancelled"


async def test_a_run_that_takes_longer_than_the_ack_wait_is_delivered_once(
    server: NatsServer, desk: Desk, one: Upstream
) -> None:
    one.ttft = 5.0
    async with running_worker(server, providers_of(one)):
        job = await desk.submit(targets=[FIRST])
        reading = await desk.until(job.run_id)
    assert len(reading.fences) == 1
    assert len(one.calls) == 1


async def test_a_result_that_is_ready_while_the_bus_is_away_is_not_made_again(
    server: NatsServer, desk: Desk, one: Upstream
) -> None:
    one.ttft = 0.5
    back = asyncio.Event()
    desk.bus.on_reconnect(back.set)
    async with running_worker(server, providers_of(one)):
        job = await desk.submit(targets=[FIRST], stream=False)
        (call,) = await one.count(1)
        server.kill()
        await asyncio.wait_for(call.ended.wait(), 5)
        server.start()
        await asyncio.wait_for(back.wait(), 10)
        reading = await desk.until(job.run_id)
    assert reading.commit.status == "completed"
    assert len(one.calls) == 1
    assert len(await desk.finished(job.run_id)) == 1


async def test_a_drained_worker_lets_streams_end(
    server: NatsServer, desk: Desk, one: Upstream
) -> None:
    one.pace = 0.02
    async with running_worker(server, providers_of(one)):
        job = await desk.submit("!tokens 40", targets=[FIRST])
        await desk.until(job.run_id, 5)
        began = time.monotonic()
    assert time.monotonic() - began < 4
    reading = await desk.read(job.run_id)
    assert reading.commit.status == "completed"
    assert len(reading.fences) == 1


async def test_heartbeats_go_on_while_the_loop_is_busy(
    server: NatsServer, desk: Desk, one: Upstream
) -> None:
    one.ttft = 4.0
    async with running_worker(server, providers_of(one)):
        job = await desk.submit(targets=[FIRST])
        while not (await desk.read(job.run_id)).fences:
            pass
        time.sleep(3.0)  # noqa: ASYNC251 - nothing on this loop runs meanwhile
        reading = await desk.until(job.run_id)
    assert reading.commit.status == "completed"
    assert len(reading.fences) == 1
