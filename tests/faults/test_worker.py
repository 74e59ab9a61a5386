"""An inference worker is killed, frozen or told to stop while it generates."""

import asyncio
import signal
from collections.abc import Callable

import pytest

from tests.faults.conftest import CHAT, PROVIDERS, STREAMS, Start, assert_same, order
from tests.support.sse import Received, Streams
from tests.support.upstream_process import running_upstream

UPSTREAM = """
providers:
  - name: upstream
    kind: openai
    base_url: {url}
    models:
      - {{id: steady, served_name: test-model, capabilities: [chat]}}
"""


@pytest.mark.requirement("faults.worker.killed")
async def test_every_stream_outlives_its_worker(
    start: Start, record_property: Callable[[str, object], None]
) -> None:
    with start("--inference", "2") as case:
        texts = await case.undisturbed()
        received = await case.disturbed("inference-1")
        assert_same(received, texts)
        gap = max(one.longest_gap for one in received)
        record_property("longest_gap_s", gap)
        print(f"longest gap after kill -9 of a worker: {gap:.2f} s")


@pytest.mark.requirement("faults.worker.frozen")
async def test_a_worker_that_thaws_is_not_heard(start: Start) -> None:
    with start("--inference", "2") as case:
        texts = await case.undisturbed()
        received = await case.disturbed("inference-1", signal.SIGSTOP)
        assert_same(received, texts)
        async with case.client() as client:
            case.server.kill("inference-1", signal.SIGCONT)
            # New streams take their time: meanwhile the thawed worker says all it has to say.
            assert_same(await asyncio.gather(*case.start(Streams(client))), texts)
            again = Streams(client)
            for one in received:
                path = f"{case.server.url}/chat/completions/{one.run_id}/stream"
                await again.read(Received(), "GET", path)
        assert_same(again.received, texts)


@pytest.mark.requirement("faults.worker.drain")
async def test_a_worker_that_stops_lets_its_runs_end(start: Start) -> None:
    """No other worker could go on: what this upstream has begun, only it can end."""
    with running_upstream(ttft_ms=20, token_ms=25) as upstream:
        providers = UPSTREAM.format(url=upstream.base_url)
        with start("--inference", "2", providers=providers) as case:
            texts = await case.undisturbed()
            received = await case.disturbed("inference-1", signal.SIGTERM, at=3)
            assert_same(received, texts)
            calls = [len(upstream.calls(f"story number {n}.")) for n in range(STREAMS)]
            assert calls == [2] * STREAMS  # once undisturbed, once now


@pytest.mark.requirement("faults.worker.drain")
async def test_a_worker_in_a_hurry_hands_its_runs_over(start: Start) -> None:
    with start("--inference", "2") as case:
        texts = await case.undisturbed()
        received = await case.disturbed("inference-1", signal.SIGUSR1, signal.SIGTERM)
        assert_same(received, texts)
        told = (case.server.data / "logs" / "inference-1.log").read_text()
        assert "handed back" in told


@pytest.mark.requirement("faults.worker.poison")
async def test_a_job_that_kills_its_workers_ends_alone(start: Start) -> None:
    providers = PROVIDERS.replace("seed: 7", "seed: 7, cues: true")
    with start("--inference", "2", providers=providers) as case:
        async with case.client() as client:
            streams = Streams(client)
            tasks = case.start(streams)
            await streams.reached(2, STREAMS)
            poison = order(0) | {"stream": False}
            poison["messages"] = [{"role": "user", "content": "!die"}]
            answer = await client.post(case.server.url + CHAT, json=poison)
            received = await asyncio.gather(*tasks)
        assert answer.status_code == 500
        assert "workers have failed" in answer.json()["error"]["message"]
        assert_same(received, await case.undisturbed())
