"""The vllm engine with a model that embeds."""

import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from schemas.errors import UpstreamRejected
from tests.engines.jobs import chat, make_job
from tests.engines.vllm_engine import MAX_LENGTH, needs_vllm, open_engine
from workers.inference.engines.vllm import VllmEngine

pytestmark = [
    pytest.mark.vllm,
    needs_vllm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    """The tiny model, its last state as an embedding that may be cut short."""
    more = {"runner": "pooling", "convert": "embed", "hf_overrides": {"is_matryoshka": True}}
    async with open_engine(tmp_path_factory.mktemp("llama"), **more) as opened:
        yield opened


@pytest.mark.parametrize("asked", ["a text", ["a text", "another"], [1, 2], [[1], [2, 3]]])
async def test_embeddings_are_unit_vectors_in_both_encodings(llm: VllmEngine, asked: Any) -> None:
    body = {"input": asked, "dimensions": 64}
    floats = await _embed(llm, body)
    packed = await _embed(llm, {**body, "encoding_format": "base64"})
    assert floats["model"] == "our/model"
    assert floats["usage"]["prompt_tokens"] > 0
    for one, other in zip(floats["data"], packed["data"], strict=True):
        vector = one["embedding"]
        assert len(vector) == 64
        assert sum(entry * entry for entry in vector) == pytest.approx(1, abs=1e-3)
        assert struct.unpack("<64f", base64.b64decode(other["embedding"])) == pytest.approx(vector)


@pytest.mark.parametrize(
    ("body", "param"), [({"input": "x " * MAX_LENGTH}, "input"), ({}, "input")]
)
async def test_a_wrong_request_is_rejected_naming_the_field(
    llm: VllmEngine, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await _embed(llm, body)
    assert (caught.value.http_status, caught.value.param) == (400, param)


async def test_chats_are_refused_by_a_model_that_embeds(llm: VllmEngine) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await llm.complete(make_job(chat("x"), stream=False))
    assert caught.value.param == "model"


async def _embed(llm: VllmEngine, body: dict[str, Any]) -> dict[str, Any]:
    data, _ = await llm.complete(make_job(body, kind="embedding", stream=False))
    return dict(msgspec.json.decode(data))
