"""POST /v1/chat/completions, by the SDK."""

import base64
import json
from typing import Any

import httpx
import openai
import pytest

from tests.acceptance.conftest import SCRIPTED, SIMULATED
from tests.support.sse import read_events
from tests.support.upstream_process import UpstreamProcess

ASK: list[Any] = [{"role": "user", "content": "Say something about the sea."}]
WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city, now.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "celsius": {"type": "boolean"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]


@pytest.mark.requirement("chat.complete")
def test_a_chat_completion_is_whole(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=SIMULATED, messages=ASK)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", SIMULATED)
    [choice] = answer.choices
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert choice.message.content
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == (
        answer.usage.prompt_tokens + answer.usage.completion_tokens
    )


@pytest.mark.requirement("chat.stream")
def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=SIMULATED, messages=ASK)
    with client.chat.completions.create(model=SIMULATED, messages=ASK, stream=True) as stream:
        chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.model for chunk in chunks} == {SIMULATED}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content


@pytest.mark.requirement("chat.stream.ids", "chat.stream.query", "chat.stream")
def test_events_count_up_from_zero_and_end_with_done(http: httpx.Client) -> None:
    with http.stream(
        "POST",
        "/v1/chat/completions?stream=true",
        json={"model": SIMULATED, "messages": ASK},
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = list(read_events(response))
    assert [event.id for event in events] == list(range(len(events)))
    assert [event.data for event in events].count(b"[DONE]") == 1
    assert events[-1].data == b"[DONE]"


@pytest.mark.requirement("chat.stream.usage")
def test_usage_comes_in_one_last_chunk_if_it_is_asked_for(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model=SIMULATED, messages=ASK, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = stream
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens > 0


@pytest.mark.requirement("chat.stream.usage")
def test_usage_is_not_sent_unasked(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model=SIMULATED, messages=ASK, stream=True) as stream:
        chunks = list(stream)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


@pytest.mark.requirement("chat.tools")
def test_an_offered_tool_is_called(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=SIMULATED,
        messages=[{"role": "user", "content": "How is the weather in Oslo?"}],
        tools=WEATHER,
        tool_choice="required",
    )
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    call = choice.message.tool_calls[0]
    assert call.type == "function"
    assert call.id
    assert call.function.name == "get_weather"
    assert "city" in json.loads(call.function.arguments)


@pytest.mark.requirement("chat.tools")
def test_a_forbidden_tool_is_not_called(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=SIMULATED, messages=ASK, tools=WEATHER, tool_choice="none"
    )
    assert not answer.choices[0].message.tool_calls
    assert answer.choices[0].message.content


@pytest.mark.requirement("chat.tools.stream")
def test_a_tool_call_is_streamed_in_pieces(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model=SIMULATED,
        messages=[{"role": "user", "content": "How is the weather in Oslo?"}],
        tools=WEATHER,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        stream=True,
    ) as stream:
        chunks = list(stream)
    deltas = [
        call
        for chunk in chunks
        for choice in chunk.choices
        for call in choice.delta.tool_calls or ()
    ]
    first, *later = deltas
    assert first.id
    assert first.type == "function"
    assert first.function is not None
    assert first.function.name == "get_weather"
    assert all(call.index == 0 and not call.id for call in later)
    arguments = "".join((call.function.arguments or "") for call in deltas if call.function)
    assert "city" in json.loads(arguments)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.requirement("chat.tools.result")
def test_a_tools_result_is_answered_with_text(client: openai.OpenAI) -> None:
    question: list[Any] = [{"role": "user", "content": "How is the weather in Oslo?"}]
    asked = client.chat.completions.create(
        model=SIMULATED, messages=question, tools=WEATHER, tool_choice="required"
    ).choices[0]
    assert asked.message.tool_calls
    result = {
        "role": "tool",
        "tool_call_id": asked.message.tool_calls[0].id,
        "content": '{"celsius": 4}',
    }
    answer = client.chat.completions.create(
        model=SIMULATED,
        messages=[*question, asked.message.model_dump(exclude_none=True), result],
        tools=WEATHER,
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.requirement("chat.n")
def test_two_choices_are_given(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=SIMULATED, messages=ASK, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.content for choice in answer.choices)


@pytest.mark.requirement("chat.n")
def test_two_choices_are_streamed(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model=SIMULATED, messages=ASK, n=2, stream=True) as stream:
        choices = [choice for chunk in stream for choice in chunk.choices]
    finished = [choice.index for choice in choices if choice.finish_reason]
    assert sorted(finished) == [0, 1]
    assert {choice.index for choice in choices if choice.delta.content} == {0, 1}


@pytest.mark.requirement("chat.logprobs")
def test_logprobs_are_given(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=SIMULATED, messages=ASK, logprobs=True, top_logprobs=2
    )
    [choice] = answer.choices
    assert choice.logprobs is not None
    assert choice.logprobs.content
    assert "".join(one.token for one in choice.logprobs.content) == choice.message.content
    for one in choice.logprobs.content:
        assert one.logprob <= 0
        assert one.bytes == list(one.token.encode())
        assert len(one.top_logprobs) == 2


@pytest.mark.requirement("chat.json_schema")
def test_json_fits_the_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=SIMULATED,
        messages=[{"role": "user", "content": "Invent a person."}],
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "person",
                "strict": True,
                "schema": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "age": {"type": "integer"},
                        "likes": {"type": "array", "items": {"enum": ["tea", "coffee"]}},
                    },
                    "required": ["name", "age", "likes"],
                    "additionalProperties": False,
                },
            },
        },
    )
    person = json.loads(answer.choices[0].message.content or "")
    assert set(person) == {"name", "age", "likes"}
    assert isinstance(person["name"], str)
    assert isinstance(person["age"], int)
    assert set(person["likes"]) <= {"tea", "coffee"}


@pytest.mark.requirement("chat.fields")
@pytest.mark.parametrize("stream", [False, True])
def test_every_field_reaches_the_upstream_as_it_was_written(
    http: httpx.Client, upstream: UpstreamProcess, stream: bool
) -> None:
    text = f"Every field, streamed {stream}."
    body = {
        "model": SCRIPTED,
        "messages": [
            {"role": "developer", "content": "Be brief.", "name": "dev"},
            {"role": "user", "content": [{"type": "text", "text": text}]},
        ],
        "stream": stream,
        "frequency_penalty": 0.25,
        "presence_penalty": -0.5,
        "temperature": 1,
        "top_p": 0.9,
        "logit_bias": {"50256": -100},
        "logprobs": True,
        "top_logprobs": 3,
        "n": 2,
        "max_completion_tokens": 9,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prediction": {"type": "content", "content": "x"},
        "prompt_cache_key": "k",
        "reasoning_effort": "low",
        "safety_identifier": "s",
        "seed": 12345678901234567,
        "service_tier": "auto",
        "stop": ["\n\n", "END"],
        "store": False,
        "user": "u",
        "tool_choice": "none",
        "tools": WEATHER,
        "verbosity": "low",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "a_field_of_the_future": {"deep": [1, 2.50, None, "\u00e9"]},
    }
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    seen = upstream.call(text)["body"]
    seen.pop("stream_options", None)  # usage is asked for, for the log
    assert seen == {**body, "model": "test-model"}


@pytest.mark.requirement("chat.response.untouched")
def test_what_an_upstream_adds_reaches_the_client(
    http: httpx.Client, upstream: UpstreamProcess
) -> None:
    told = {
        "id": "theirs",
        "object": "chat.completion",
        "created": 1,
        "model": "theirs",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "x", "reasoning_content": "because"},
                "finish_reason": "stop",
                "logprobs": None,
                "a_part_of_the_future": 1.50,
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "queue_time": 0.1},
        "provider_specific": {"region": "north"},
    }
    upstream.script(
        {"kind": "body", "pieces": [to_base64(told)], "content_type": "application/json"}
    )
    body = {"model": SCRIPTED, "messages": [{"role": "user", "content": "Unknown fields."}]}
    answer = http.post("/v1/chat/completions", json=body).raise_for_status().json()
    for name in ("choices", "usage", "provider_specific"):
        assert answer[name] == told[name]
    assert answer["model"] == SCRIPTED
    assert answer["id"].startswith("chatcmpl-")


def to_base64(value: object) -> str:
    """JSON as the upstream's script wants the bytes of a body."""
    return base64.b64encode(json.dumps(value).encode()).decode()
