"""The engines' contract, on vLLM: all of its tests on one engine, which takes a while to start."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.engines.contract import Promise, promises
from tests.engines.vllm_engine import needs_vllm, open_engine
from workers.inference.engines.vllm import VllmEngine

pytestmark = [
    pytest.mark.vllm,
    needs_vllm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]

LACKS = frozenset(
    {
        "cues",  # `!fail 500` and its like: only the simulated model obeys
        "content",  # a tiny model does not repeat what it is told
        "embeddings",  # a model that generates has none: see test_vllm_embeddings.py
    }
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    """The model that comes along: it ends its answers, and writes whole characters."""
    folder = tmp_path_factory.mktemp("tiny")
    async with open_engine(folder, _make_tiny, max_model_len=2048) as opened:
        yield opened


def _make_tiny(folder: Path) -> Path:
    pytest.importorskip("gguf", reason="jan-tiny is turned into a folder for vLLM by gguf")
    from models.export import FILE, export

    export(FILE, folder)
    return folder


@pytest.mark.parametrize("promise", promises(LACKS))
async def test_the_contract_of_engines_is_held(llm: VllmEngine, promise: Promise) -> None:
    await promise(llm)
