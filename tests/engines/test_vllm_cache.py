"""The vllm engine with a KV cache that holds a few sequences only."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.engines.jobs import Collector, chat, make_job
from tests.engines.vllm_engine import MAX_LENGTH, needs_vllm, open_engine
from workers.inference.engines.vllm import VllmEngine

pytestmark = [
    pytest.mark.vllm,
    needs_vllm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]

BLOCK = 32  # tokens
BLOCKS = 50
PLACES = BLOCKS * BLOCK // MAX_LENGTH  # at full length


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    """The tiny model with room for three sequences at full length."""
    cache = {"num_gpu_blocks_override": BLOCKS, "block_size": BLOCK, "max_num_seqs": 64}
    async with open_engine(tmp_path_factory.mktemp("llama"), **cache) as opened:
        yield opened


async def test_a_queue_feeds_the_batch_without_preemptions(llm: VllmEngine) -> None:
    assert llm.slots() == PLACES - 1, "which with a twentieth in reserve is two"
    most = await _feed(llm, runs=100, tokens=100)
    print(f"up to {most} runs at once, {_preemptions(llm):g} preemptions")
    assert most > 2 * PLACES, "short runs made room for more"
    assert _preemptions(llm) == 0

    # The same runs all at once are too many: vLLM throws some out and begins them again.
    await asyncio.gather(*(_run(llm, number, 300) for number in range(16)))
    assert _preemptions(llm) > 0


async def test_long_runs_shrink_the_batch_again(llm: VllmEngine) -> None:
    await _feed(llm, runs=36, tokens=300)
    before = _preemptions(llm)
    most = await _feed(llm, runs=6, tokens=300)
    assert most <= BLOCKS * BLOCK // 300, "and each has a prompt, too"
    assert _preemptions(llm) == before


async def _feed(llm: VllmEngine, runs: int, tokens: int) -> int:
    """Start a run whenever there is a slot, as the worker does; tell the most at once."""
    running: set[asyncio.Task[None]] = set()
    most = 0
    for number in range(runs):
        while len(running) >= (llm.slots() or 0):
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        running.add(asyncio.create_task(_run(llm, number, tokens)))
        most = max(most, len(running))
        await asyncio.sleep(0)  # it begins
    await asyncio.wait(running)
    return most


async def _run(llm: VllmEngine, number: int, tokens: int) -> None:
    body = chat(f"story {number}", max_tokens=tokens, ignore_eos=True)
    await llm.generate(make_job(body, seconds=200), Collector())


def _preemptions(llm: VllmEngine) -> float:
    """How many sequences vLLM has thrown out of its cache, to begin them again later."""
    found = [metric for metric in llm.collect() if metric.name == "vllm:num_preemptions"]
    return sum(
        sample.value
        for metric in found
        for sample in metric.samples
        if sample.name.endswith("_total")
    )
