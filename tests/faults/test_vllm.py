"""A worker with vLLM, or vLLM's own process, is killed while it generates."""

import asyncio
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cli.supervisor import STOP_ORDER, STOP_SECONDS
from tests.engines.tiny_llama import make_llama
from tests.engines.vllm_engine import ENVIRONMENT, needs_vllm
from tests.faults.conftest import CHAT, Case, Start
from tests.support.server import eventually
from tests.support.sse import Received, Streams

pytestmark = [pytest.mark.vllm, needs_vllm, pytest.mark.timeout(600)]

PROVIDERS = """
providers:
  - name: local
    kind: vllm
    models:
      - {{id: tiny, capabilities: [chat]}}
    options:
      engine_args:
        model: {model}
        dtype: float32
        enforce_eager: true
        max_num_seqs: 8
        max_model_len: {length}
"""
LENGTH = 1024  # the model's: the longer an answer, the surer it is killed in the middle
TAKEOVER = 30  # seconds, on a machine with other things to do: to start vLLM takes longer
ORDER: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Tell a story."}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0,
    "max_tokens": LENGTH - 100,
    "ignore_eos": True,
}

Victim = psutil.Process | Callable[[], psutil.Process]


@pytest.fixture
def providers(tmp_path: Path) -> str:
    """A providers file with a tiny model on vLLM."""
    model = make_llama(tmp_path / "llama")
    return PROVIDERS.format(model=json.dumps(str(model)), length=LENGTH)


@pytest.mark.requirement("faults.worker.killed")
async def test_a_stream_outlives_its_worker_and_vllms_process(start: Start, providers: str) -> None:
    with start(providers=providers, env=ENVIRONMENT) as case:
        undisturbed = await _read(case)
        assert undisturbed.whole

        before = _family(case)
        received = await _read(case, before[0])
        _assert_same(received, undisturbed)
        print(f"longest gap after kill -9 of the worker: {received.longest_gap:.1f} s")
        eventually(lambda: not any(process.is_running() for process in before))

        worker, *engine = _family(case)
        received = await _read(case, engine[-1])
        _assert_same(received, undisturbed)
        print(f"longest gap after kill -9 of vLLM's engine: {received.longest_gap:.1f} s")
        eventually(lambda: not worker.is_running())


@pytest.mark.requirement("faults.worker.killed")
async def test_another_worker_goes_on_without_a_new_start(start: Start, providers: str) -> None:
    with start("--inference", "2", providers=providers, env=ENVIRONMENT) as case:
        names = [process.name for process in case.server.processes("inference")]
        eventually(lambda: all(_measure(case, name, "jan_inference_slots") for name in names), 200)
        undisturbed = await _read(case)
        assert undisturbed.whole

        received = await _read(case, lambda: _worker_at_work(case, names))
        _assert_same(received, undisturbed)
        print(f"longest gap with another worker: {received.longest_gap:.1f} s")
        assert received.longest_gap < TAKEOVER

        begun = time.monotonic()
        assert case.server.stop() == 0
        assert time.monotonic() - begun < STOP_SECONDS * dict(STOP_ORDER)["worker"], "it was killed"


def _worker_at_work(case: Case, names: list[str]) -> psutil.Process:
    """The worker that has the one run, as its own metrics and vLLM's say."""
    (name,) = [name for name in names if _measure(case, name, "jan_inference_running")]
    assert _measure(case, name, "vllm:num_requests_running") == 1
    return psutil.Process(case.server.process(name).pid)


def _measure(case: Case, name: str, metric: str) -> float:
    """What a worker's /metrics says; 0 while it does not."""
    process = case.server.process(name)
    try:
        told = httpx.get(f"http://127.0.0.1:{process.metrics_port}/metrics", timeout=10).text
    except httpx.HTTPError:  # it is starting
        return 0
    families = text_string_to_metric_families(told)
    return sum(sample.value for one in families for sample in one.samples if sample.name == metric)


def _assert_same(received: Received, undisturbed: Received) -> None:
    assert received.whole
    assert received.text == undisturbed.text
    assert _usage(received) == _usage(undisturbed)
    assert received.longest_gap > 1, "it was killed in the middle"


def _family(case: Case) -> list[psutil.Process]:
    """The worker's process, then those that it has started; the engine's come last."""
    worker = psutil.Process(case.server.process("inference-1").pid)
    return [worker, *sorted(worker.children(recursive=True), key=lambda one: one.pid)]


def _usage(received: Received) -> object:
    """What the last chunk says; the [DONE] comes after it."""
    usage = json.loads(received.events[-2].data)["usage"]
    assert usage["completion_tokens"] == ORDER["max_tokens"]
    return usage


async def _read(case: Case, victim: Victim | None = None) -> Received:
    """Read the stream to its end; kill a process once it is well under way."""
    headers = {"Authorization": f"Bearer {case.key}"}
    async with httpx.AsyncClient(headers=headers, timeout=200) as client:
        streams, received = Streams(client), Received()
        streams.received.append(received)
        url = case.server.url + CHAT
        reading = asyncio.create_task(streams.read(received, "POST", url, json=ORDER))
        if victim is not None:
            await streams.reached(40, 1)
            chosen = victim if isinstance(victim, psutil.Process) else victim()
            chosen.send_signal(signal.SIGKILL)
            print(f"killed {chosen.pid} after {len(received.events)} events")
        async with asyncio.timeout(240):
            return await reading
