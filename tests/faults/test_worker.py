"""An inference worker is killed, frozen or told to stop while it generates."""

import asyncio
import signal
from collections.abc import Callable

import pytest

from tests.faults.conftest import STREAMS, Start, assert_same
from tests.support.sse import Received, Streams


@pytest.mark.requirement("faults.worker.killed")
async def test_every_stream_outlives_its_worker(
    start: Start, record_property: Callable[[str, object], None]
) -> None:
    with start("--inference", "2") as case:
        texts = await case.undisturbed()
        async with case.client() as client:
            streams = Streams(client)
            tasks = case.start(streams)
            await streams.reached(20, STREAMS)
            case.server.kill("inference-1")
            received = await asyncio.gather(*tasks)
        assert_same(received, texts)
        gap = max(one.longest_gap for one in received)
        record_property("longest_gap_s", gap)
        print(f"longest gap after kill -9 of a worker: {gap:.2f} s")


@pytest.mark.requirement("faults.worker.frozen")
async def test_a_worker_that_thaws_is_not_heard(start: Start) -> None:
    with start("--inference", "2") as case:
        texts = await case.undisturbed()
        async with case.client() as client:
            streams = Streams(client)
            tasks = case.start(streams)
            await streams.reached(20, STREAMS)
            case.server.kill("inference-1", signal.SIGSTOP)
            received = await asyncio.gather(*tasks)
            assert_same(received, texts)
            case.server.kill("inference-1", signal.SIGCONT)
            # New streams take their time: meanwhile the thawed worker says all it has to say.
            assert_same(await asyncio.gather(*case.start(Streams(client))), texts)
            again = Streams(client)
            for one in received:
                path = f"{case.server.url}/chat/completions/{one.run_id}/stream"
                await again.read(Received(), "GET", path)
        assert_same(again.received, texts)


@pytest.mark.requirement("faults.worker.drain")
async def test_a_worker_that_stops_hands_its_runs_over(start: Start) -> None:
    with start("--inference", "2") as case:
        texts = await case.undisturbed()
        async with case.client() as client:
            streams = Streams(client)
            tasks = case.start(streams)
            await streams.reached(20, STREAMS)
            case.server.kill("inference-1", signal.SIGTERM)
            received = await asyncio.gather(*tasks)
        assert_same(received, texts)
