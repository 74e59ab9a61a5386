"""A LoRA of the vllm engine is a model of its own."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from tests.engines.jobs import Collector, chat, make_job
from tests.engines.tiny_llama import make_llama
from tests.engines.vllm_engine import needs_vllm, open_engine
from workers.inference.engines import Captured
from workers.inference.engines.vllm import VllmEngine

pytestmark = [
    pytest.mark.vllm,
    needs_vllm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]

BODY = chat("a story", max_tokens=24, ignore_eos=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    """The tiny model and a LoRA of it, of random weights."""
    folder = tmp_path_factory.mktemp("llama")
    loras = {"poet": str(_make_lora(make_llama(folder / "base"), folder / "poet"))}
    async with open_engine(folder / "base", lora_modules=loras) as opened:
        yield opened


def _make_lora(model: Path, folder: Path) -> Path:
    """Write a LoRA of the model's queries as PEFT writes one."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    rank, size = 8, json.loads((model / "config.json").read_text())["hidden_size"]
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 32, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    torch.manual_seed(1)
    place = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {"lora_A": torch.randn(rank, size), "lora_B": torch.randn(size, rank)}
    named = {f"{place}.{name}.weight": weight for name, weight in weights.items()}
    save_file(named, folder / "adapter_model.safetensors")
    return folder


async def test_a_lora_answers_under_its_name(llm: VllmEngine) -> None:
    plain, poet = make_job(BODY), replace(make_job(BODY), served_name="poet")
    one, other = Collector(), Collector()
    await llm.generate(plain, one)
    await llm.generate(poet, other)
    assert len(other.text()) > 0
    assert one.text() != other.text()
    whole, _ = await llm.complete(replace(poet, stream=False))
    assert msgspec.json.decode(whole)["choices"][0]["message"]["content"] == other.text()


async def test_a_loras_answer_is_continued_by_the_lora(llm: VllmEngine) -> None:
    poet = replace(make_job(BODY), served_name="poet")
    whole, rest = Collector(), Collector()
    await llm.generate(poet, whole)
    count = sum(whole.sends[:8])
    captured = Captured(whole.chunks[:count], b"".join(whole.states[:8]))
    await llm.generate(replace(poet, captured=captured), rest)
    joined = Collector()
    joined.send(whole.chunks[:count] + rest.chunks)
    assert joined.text() == whole.text()
