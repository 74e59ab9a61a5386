"""POST /v1/completions, by the SDK."""

import openai
import pytest

from tests.acceptance.conftest import SIMULATED


@pytest.mark.requirement("completions.complete")
def test_a_completion_is_whole(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=SIMULATED, prompt="Once upon a time", max_tokens=8)
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model) == ("text_completion", SIMULATED)
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8


@pytest.mark.requirement("completions.stream")
def test_a_completion_is_streamed(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=SIMULATED, prompt="Once upon a time", max_tokens=8)
    with client.completions.create(
        model=SIMULATED, prompt="Once upon a time", max_tokens=8, stream=True
    ) as stream:
        chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
