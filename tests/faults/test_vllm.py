"""A worker with vLLM, or vLLM's own process, is killed while it generates."""

import asyncio
import json
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from tests.engines.tiny_llama import make_llama
from tests.engines.vllm_engine import ENVIRONMENT, MAX_LENGTH, needs_vllm
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
ORDER = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Tell a story."}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0,
    "max_tokens": MAX_LENGTH - 100,
    "ignore_eos": True,
}


@pytest.mark.requirement("faults.worker.killed")
async def test_a_stream_outlives_its_worker_and_vllms_process(start: Start, tmp_path: Path) -> None:
    model = make_llama(tmp_path / "llama")
    providers = PROVIDERS.format(model=json.dumps(str(model)), length=MAX_LENGTH)
    with start(providers=providers, env=ENVIRONMENT) as case:
        undisturbed = await _read(case)
        assert undisturbed.whole

        before = _family(case)
        received = await _read(case, before[0])
        assert received.text == undisturbed.text
        assert received.whole
        assert _usage(received) == _usage(undisturbed)
        assert received.longest_gap > 1, "it was killed in the middle"
        print(f"longest gap after kill -9 of the worker: {received.longest_gap:.1f} s")
        eventually(lambda: not any(process.is_running() for process in before))

        worker, *engine = _family(case)
        received = await _read(case, engine[-1])
        assert received.text == undisturbed.text
        assert received.whole
        print(f"longest gap after kill -9 of vLLM's engine: {received.longest_gap:.1f} s")
        eventually(lambda: not worker.is_running())


def _family(case: Case) -> list[psutil.Process]:
    """The worker's process, then those that it has started; the engine's come last."""
    worker = psutil.Process(case.server.process("inference-1").pid)
    return [worker, *sorted(worker.children(recursive=True), key=lambda one: one.pid)]


def _usage(received: Received) -> object:
    return [json.loads(event.data).get("usage") for event in received.events[-2:-1]]


async def _read(case: Case, victim: psutil.Process | None = None) -> Received:
    """Read the stream to its end; kill a process once it is well under way."""
    headers = {"Authorization": f"Bearer {case.key}"}
    async with httpx.AsyncClient(headers=headers, timeout=200) as client:
        streams, received = Streams(client), Received()
        streams.received.append(received)
        url = case.server.url + CHAT
        reading = asyncio.create_task(streams.read(received, "POST", url, json=ORDER))
        if victim is not None:
            await streams.reached(40, 1)
            victim.send_signal(signal.SIGKILL)
            print(f"killed {victim.pid} after {len(received.events)} events")
        async with asyncio.timeout(240):
            return await reading
