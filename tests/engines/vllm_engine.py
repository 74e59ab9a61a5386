"""vLLM on a model of random weights, for tests; skips where vLLM is not installed."""

import asyncio
import importlib.util
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.providers import ProviderModel, VllmOptions, VllmProvider
from tests.engines.jobs import Collector
from tests.engines.tiny_llama import make_llama
from workers.inference.engines.vllm import VllmEngine

ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",  # needs a C++ compiler
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # more engines than cores
    "HF_HUB_OFFLINE": "1",
}
MAX_LENGTH = 512

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: it is optional"
)


def make_provider(model: Path, **more: Any) -> VllmProvider:
    """A provider whose model is the tiny one."""
    engine_args = {
        "model": str(model),
        "enforce_eager": True,
        "max_num_seqs": 8,
        "max_model_len": MAX_LENGTH,
        "dtype": "float32",  # in less, near ties fall differently in a prompt and in an answer
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "tool_strict_level": "parameter",  # this model writes no sense of its own accord
        **more,
    }
    return VllmProvider(
        name="local",
        kind="vllm",
        models=[ProviderModel(id="our/model", served_name="their-model")],
        options=VllmOptions(
            tool_parser=None if "runner" in more else "hermes", engine_args=engine_args
        ),
    )


@asynccontextmanager
async def open_engine(
    folder: Path, make: Callable[[Path], Path] = make_llama, **more: Any
) -> AsyncIterator[VllmEngine]:
    """An engine that has loaded the tiny model which `make` writes into the folder."""
    os.environ.update(ENVIRONMENT)
    engine = VllmEngine(make_provider(await asyncio.to_thread(make, folder), **more))
    try:
        await engine.open(print)
        yield engine
    finally:
        await engine.close()


class Recorder(Collector):
    """A sink that knows, after each sending, how many chunks there were and their state."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[tuple[int, bytes]] = [(0, b"")]

    def send(self, chunks: Sequence[bytes], state: bytes = b"") -> None:
        """Keep chunks and state."""
        super().send(chunks)
        self.moments.append((len(self.chunks), self.moments[-1][1] + state))
