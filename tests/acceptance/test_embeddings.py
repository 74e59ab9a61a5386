"""POST /v1/embeddings, by the SDK and without its decoding."""

import base64
import struct

import httpx
import openai
import pytest

from tests.acceptance.conftest import SIMULATED


@pytest.mark.requirement("embeddings.float")
def test_floats_are_given_in_the_inputs_order(client: openai.OpenAI) -> None:
    both = client.embeddings.create(
        model=SIMULATED, input=["the sea", "a mountain"], encoding_format="float"
    )
    alone = client.embeddings.create(model=SIMULATED, input="a mountain", encoding_format="float")
    assert [item.index for item in both.data] == [0, 1]
    assert both.data[1].embedding == pytest.approx(alone.data[0].embedding)
    assert both.data[0].embedding != both.data[1].embedding
    assert both.usage.prompt_tokens > 0


@pytest.mark.requirement("embeddings.base64")
def test_base64_carries_the_same_numbers(client: openai.OpenAI, http: httpx.Client) -> None:
    request = {"model": SIMULATED, "input": "the sea", "encoding_format": "base64"}
    raw = http.post("/v1/embeddings", json=request).raise_for_status().json()
    packed = base64.b64decode(raw["data"][0]["embedding"])
    numbers = list(struct.unpack(f"<{len(packed) // 4}f", packed))
    floats = client.embeddings.create(model=SIMULATED, input="the sea", encoding_format="float")
    by_default = client.embeddings.create(model=SIMULATED, input="the sea")  # base64 on the wire
    assert numbers == pytest.approx(floats.data[0].embedding, abs=1e-6)
    assert numbers == pytest.approx(by_default.data[0].embedding, abs=1e-6)
