"""What `./jan up` serves when it is told nothing: the model that comes along."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from cli.launch import LaunchedServer
from tests.support.server import http_client, openai_client, running_server

MODEL = "jan-tiny"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def bare() -> Iterator[LaunchedServer]:
    """A server that was told nothing."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def client(bare: LaunchedServer) -> Iterator[openai.OpenAI]:
    """The SDK against it."""
    with openai_client(bare.url, bare.create_key()) as opened:
        yield opened


@pytest.mark.requirement("models.builtin")
def test_the_models_say_what_they_are(client: openai.OpenAI) -> None:
    models = {model.id: model.model_dump() for model in client.models.list()}
    assert list(models) == [MODEL, "jan-simulated"]
    assert "--model FILE.gguf" in models[MODEL]["description"]


@pytest.mark.requirement("models.builtin")
def test_the_page_says_what_answers_and_how_to_attach_a_model(bare: LaunchedServer) -> None:
    with http_client(bare.url) as http:
        page = http.get("/").text
    assert "jan-tiny" in page
    assert "./jan up --model FILE.gguf" in page


@pytest.mark.requirement("models.builtin")
def test_it_answers_streamed_as_whole(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "What is Jan Server?"}]}
    options = {"temperature": 0, "max_tokens": 100}
    whole = client.chat.completions.create(**asked, **options)
    stream = client.chat.completions.create(**asked, **options, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == whole.choices[0].message.content != ""
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 0


@pytest.mark.requirement("models.builtin")
def test_it_calls_a_tool(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice="required",
        temperature=0,
        max_tokens=200,
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.function.name == "get_weather"


@pytest.mark.requirement("models.builtin")
def test_it_goes_on_with_a_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="Jan Server is", max_tokens=8)
    assert answer.choices[0].text


@pytest.mark.requirement("models.builtin")
def test_a_prompt_that_is_too_long_names_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 9000}]
        )
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


@pytest.mark.requirement("responses.truncation")
@pytest.mark.parametrize("stream", [False, True])
def test_an_input_that_is_too_long_is_refused_or_loses_its_oldest(
    client: openai.OpenAI, stream: bool
) -> None:
    said: Any = [
        {"role": ("user", "assistant")[number % 2], "content": f"Word {number} of many. " * 20}
        for number in range(60)
    ]
    asked: Any = [*said, {"role": "user", "content": "What is Jan Server?"}]
    options: Any = {"model": MODEL, "input": asked, "instructions": "Be short.", "temperature": 0}
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**options)
    assert refused.value.code == "context_length_exceeded"
    if not stream:
        response = client.responses.create(**options, truncation="auto")
    else:
        events = list(client.responses.create(**options, truncation="auto", stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        last = events[-1]
        assert last.type == "response.completed"
        response = last.response
    assert response.status == "completed"
    assert [item.type for item in response.output] == ["message"]
    assert response.usage is not None
    assert response.usage.input_tokens < 2048
