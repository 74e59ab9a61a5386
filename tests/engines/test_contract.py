"""What every engine holds to, whatever it runs on."""

import asyncio
import base64
import struct
import time
from typing import Any

import jsonschema
import msgspec
import pytest

from schemas.errors import (
    UpstreamError,
    UpstreamNotFound,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)
from tests.engines.jobs import Collector, chat, make_job
from workers.inference.engines import ENGINES, Engine, Outcome

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
SIZE = {"type": "integer", "minimum": 1, "maximum": 99}


async def _stream(engine: Engine, body: dict[str, Any], **more: Any) -> tuple[Collector, Outcome]:
    sink = Collector()
    outcome = await engine.generate(make_job(body, **more), sink)
    return sink, outcome


async def _complete(engine: Engine, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    data, _ = await engine.complete(make_job(body, stream=False, **more))
    return dict(msgspec.json.decode(data))


def test_every_kind_of_engine_is_listed() -> None:
    assert {"openai", "simulated"} <= set(ENGINES)


async def test_stream_says_what_the_body_says(engine: Engine) -> None:
    sink, outcome = await _stream(engine, chat("Tell me a story."))
    body = await _complete(engine, chat("Tell me a story."))
    assert sink.text() == body["choices"][0]["message"]["content"] != ""
    assert sink.finish_reasons() == {0: "stop"}
    assert outcome.finish_reason == "stop"
    assert msgspec.json.decode(outcome.usage or b"") == body["usage"]


async def test_chunks_and_bodies_bear_our_names(engine: Engine) -> None:
    sink, _ = await _stream(engine, chat("hello"))
    for chunk in sink.parsed():
        assert (chunk["id"], chunk["model"]) == ("chatcmpl-1", "our/model")
        assert chunk["object"] == "chat.completion.chunk"
    body = await _complete(engine, chat("hello"))
    assert (body["id"], body["model"]) == ("chatcmpl-1", "our/model")
    assert (body["object"], body["created"]) == ("chat.completion", 1_700_000_001)


async def test_no_chunk_has_a_line_break(engine: Engine) -> None:
    sink, _ = await _stream(engine, chat("two\nlines"))
    assert not any(b"\n" in chunk or b"\r" in chunk for chunk in sink.chunks)


async def test_usage_chunk_comes_last_and_only_if_asked_for(engine: Engine) -> None:
    asked = chat("hello", stream_options={"include_usage": True})
    sink, outcome = await _stream(engine, asked)
    *others, last = sink.parsed()
    assert last["choices"] == []
    assert last["usage"] == msgspec.json.decode(outcome.usage or b"")
    assert all(chunk["choices"] and not chunk.get("usage") for chunk in others)

    quiet, outcome = await _stream(engine, chat("hello"), include_usage=False)
    assert all(chunk["choices"] for chunk in quiet.parsed())
    assert outcome.usage is not None, "the log wants it all the same"


async def test_usage_counts_add_up_and_follow_the_text(engine: Engine) -> None:
    short = (await _complete(engine, chat("one", max_tokens=2)))["usage"]
    longer = (await _complete(engine, chat("one two three four", max_tokens=5)))["usage"]
    for usage in (short, longer):
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert short["completion_tokens"] == 2
    assert longer["completion_tokens"] == 5
    assert longer["prompt_tokens"] >= short["prompt_tokens"] + 3


@pytest.mark.needs("cues")
async def test_a_prompt_of_three_more_words_has_three_more_tokens(engine: Engine) -> None:
    short = (await _complete(engine, chat("one", max_tokens=2)))["usage"]
    longer = (await _complete(engine, chat("one two three four", max_tokens=2)))["usage"]
    assert longer["prompt_tokens"] == short["prompt_tokens"] + 3


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_max_tokens_ends_the_answer(engine: Engine, name: str) -> None:
    full, _ = await _stream(engine, chat("a long story"))
    sink, outcome = await _stream(engine, chat("a long story", **{name: 4}))
    assert outcome.finish_reason == "length"
    assert full.text().startswith(sink.text())
    assert len(sink.text()) < len(full.text())


@pytest.mark.parametrize("as_list", [False, True])
async def test_stop_ends_the_answer_before_the_words(engine: Engine, as_list: bool) -> None:
    full, _ = await _stream(engine, chat("a story"))
    words = full.text()[10:14]
    stop = ["never said", words] if as_list else words
    sink, outcome = await _stream(engine, chat("a story", stop=stop))
    assert sink.text() == full.text()[: full.text().find(words)]
    assert outcome.finish_reason == "stop"


@pytest.mark.needs("n")
async def test_n_gives_several_different_choices(engine: Engine) -> None:
    sink, _ = await _stream(engine, chat("a story", n=2, seed=1, temperature=1))
    body = await _complete(engine, chat("a story", n=2, seed=1, temperature=1))
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert [sink.text(0), sink.text(1)] == texts
    assert texts[0] != texts[1]
    assert set(sink.finish_reasons()) == {0, 1}


@pytest.mark.needs("seed")
async def test_seed_decides_the_answer(engine: Engine) -> None:
    one, _ = await _stream(engine, chat("a story", seed=1, temperature=1))
    same, _ = await _stream(engine, chat("a story", seed=1, temperature=1))
    other, _ = await _stream(engine, chat("a story", seed=2, temperature=1))
    assert one.text() == same.text() != other.text()


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
@pytest.mark.needs("tools")
async def test_tools_are_called_when_asked_for(engine: Engine, choice: Any) -> None:
    body = chat("What now?", tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False)
    sink, outcome = await _stream(engine, body)
    (call,) = sink.tool_calls()
    assert call["name"] == "get_weather"
    arguments = msgspec.json.decode(call["arguments"])
    jsonschema.validate(arguments, WEATHER["function"]["parameters"])  # type: ignore[index]
    # vLLM says "stop" where the request names the tool, as OpenAI itself does.
    named = engine.kind == "vllm" and choice != "required"
    assert outcome.finish_reason == ("stop" if named else "tool_calls")
    whole = (await _complete(engine, body))["choices"][0]["message"]
    (again,) = whole["tool_calls"]
    assert again["function"]["name"] == "get_weather"
    assert msgspec.json.decode(again["function"]["arguments"]) == arguments
    assert whole["content"] in ((None, "") if engine.kind == "vllm" else (None,))


@pytest.mark.needs("tools", "content")
async def test_a_tool_that_the_prompt_names_is_called_unless_forbidden(engine: Engine) -> None:
    sink, _ = await _stream(engine, chat("Please use get_weather.", tools=[WEATHER]))
    assert [call["name"] for call in sink.tool_calls()] == ["get_weather"]
    forbidden = chat("Please use get_weather.", tools=[WEATHER], tool_choice="none")
    sink, _ = await _stream(engine, forbidden)
    assert sink.tool_calls() == []
    assert sink.text()


@pytest.mark.needs("tools", "content")
async def test_a_tool_result_leads_to_text(engine: Engine) -> None:
    body = chat("Please use get_weather.", tools=[WEATHER])
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather"}}
    call["function"]["arguments"] = "{}"  # type: ignore[index]
    body["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "17 degrees and sun"},
    ]
    sink, _ = await _stream(engine, body)
    assert "17 degrees and sun" in sink.text()


@pytest.mark.needs("json_schema")
async def test_json_schema_is_filled(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 3, "maxLength": 20},
            "parts": {
                "type": "array",
                "items": {"$ref": "#/$defs/part"},
                "minItems": 2,
                "maxItems": 4,
            },
        },
        "required": ["name", "parts"],
        "additionalProperties": False,
        "$defs": {"part": {"type": "object", "properties": {"size": SIZE}}},
    }
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
    sink, _ = await _stream(engine, chat("Make one.", response_format=form))
    jsonschema.validate(msgspec.json.decode(sink.text()), schema)


@pytest.mark.needs("json_object")
async def test_json_object_is_an_object(engine: Engine) -> None:
    sink, _ = await _stream(engine, chat("JSON", response_format={"type": "json_object"}))
    assert isinstance(msgspec.json.decode(sink.text()), dict)


@pytest.mark.needs("logprobs")
async def test_logprobs_tell_each_token(engine: Engine) -> None:
    body = chat("a story", logprobs=True, top_logprobs=3, max_tokens=6)
    sink, _ = await _stream(engine, body)
    told = [
        token
        for chunk in sink.parsed()
        for choice in chunk["choices"]
        if choice.get("logprobs")
        for token in choice["logprobs"]["content"]
    ]
    assert "".join(token["token"] for token in told) == sink.text()
    for token in told:
        assert token["logprob"] <= 0
        assert bytes(token["bytes"]).decode() == token["token"]
        assert len(token["top_logprobs"]) == 3
    whole = (await _complete(engine, body))["choices"][0]["logprobs"]["content"]
    assert whole == told


@pytest.mark.needs("completions")
async def test_completions_stream_and_come_whole(engine: Engine) -> None:
    body = {"model": "our/model", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
    sink, outcome = await _stream(engine, body, kind="completion")
    whole = await _complete(engine, body, kind="completion")
    assert sink.text() == whole["choices"][0]["text"]
    assert outcome.finish_reason == whole["choices"][0]["finish_reason"]
    ends = ("length", "stop") if engine.kind in ("llamacpp", "vllm") else ("length",)
    assert outcome.finish_reason in ends, "jan-tiny may have little to add"
    assert (whole["object"], whole["id"]) == ("text_completion", "cmpl-1")


@pytest.mark.needs("completions", "echo")
async def test_completions_echo_the_prompt(engine: Engine) -> None:
    body = {"model": "m", "prompt": "Once upon", "max_tokens": 3, "echo": True, "temperature": 0}
    if engine.kind != "vllm":  # which has no probabilities of a prompt for a stream
        body["logprobs"] = 2
    sink, _ = await _stream(engine, body, kind="completion")
    whole = await _complete(engine, body, kind="completion")
    assert sink.text() == whole["choices"][0]["text"]
    assert sink.text().startswith("Once upon" if engine.kind == "vllm" else "Once upon ")


@pytest.mark.parametrize(
    ("prompt", "count"), [(["a", "b"], 4), ([1, 2, 3], 2), ([[1, 2], [3], [4]], 6)]
)
@pytest.mark.needs("completions", "token_prompts")
async def test_completions_answer_every_prompt(engine: Engine, prompt: Any, count: int) -> None:
    body = {"model": "m", "prompt": prompt, "n": 2, "max_tokens": 3}
    sink, _ = await _stream(engine, body, kind="completion")
    assert set(sink.finish_reasons()) == set(range(count))
    whole = await _complete(engine, body, kind="completion")
    assert [choice["index"] for choice in whole["choices"]] == list(range(count))


@pytest.mark.parametrize("asked", ["a text", ["a text", "another"], [1, 2], [[1], [2, 3]]])
@pytest.mark.needs("embeddings")
async def test_embeddings_are_unit_vectors_in_both_encodings(engine: Engine, asked: Any) -> None:
    body = {"model": "m", "input": asked, "dimensions": 64}
    floats = await _complete(engine, body, kind="embedding")
    packed = await _complete(engine, {**body, "encoding_format": "base64"}, kind="embedding")
    assert floats["model"] == "our/model"
    assert floats["usage"]["prompt_tokens"] > 0
    for one, other in zip(floats["data"], packed["data"], strict=True):
        vector = one["embedding"]
        assert len(vector) == 64
        assert sum(entry * entry for entry in vector) == pytest.approx(1, abs=1e-5)
        assert struct.unpack("<64f", base64.b64decode(other["embedding"])) == pytest.approx(vector)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "error", "wire_status"),
    [
        (400, UpstreamRejected, 400),
        (404, UpstreamNotFound, 404),
        (422, UpstreamRejected, 422),
        (401, UpstreamError, 502),
        (403, UpstreamError, 502),
        (408, UpstreamTimeout, 504),
        (429, UpstreamRateLimited, 429),
        (500, UpstreamError, 502),
        (503, UpstreamError, 502),
    ],
)
@pytest.mark.needs("cues")
async def test_a_failing_upstream_is_told_by_class(
    engine: Engine, stream: bool, status: int, error: type[UpstreamError], wire_status: int
) -> None:
    sink = Collector()
    job = make_job(chat(f"!fail {status}"), stream=stream)
    run: Any = engine.generate(job, sink) if stream else engine.complete(job)
    with pytest.raises(error) as caught:
        await run
    assert type(caught.value) is error
    assert caught.value.http_status == wire_status
    assert caught.value.retryable != issubclass(error, UpstreamRejected)
    assert sink.chunks == []


@pytest.mark.needs("cues")
async def test_a_failure_in_the_middle_is_told_after_what_came(engine: Engine) -> None:
    full, _ = await _stream(engine, chat("a story"))
    sink = Collector()
    with pytest.raises(UpstreamError):
        await engine.generate(make_job(chat("a story\n!fail 500 5")), sink)
    assert len(sink.chunks) == 6  # the role, then five tokens
    assert sink.finish_reasons() == {}
    assert full.chunks


@pytest.mark.parametrize("body", [chat("x", n=0), chat("x", n="two"), {"messages": []}])
async def test_a_wrong_request_is_rejected(engine: Engine, body: dict[str, Any]) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await engine.generate(make_job(body), Collector())
    assert caught.value.http_status == 400
    assert caught.value.param in ("n", "messages")


@pytest.mark.needs("cues")
async def test_silence_ends_in_a_timeout(engine: Engine) -> None:
    with pytest.raises(UpstreamTimeout):
        await engine.generate(make_job(chat("!stall 3"), seconds=0.3), Collector())


@pytest.mark.needs("cues")
async def test_a_cancelled_stream_ends_at_once(engine: Engine) -> None:
    sink = Collector()
    body = chat("!pace 20\n!tokens 500")
    async with asyncio.timeout(30):
        task = asyncio.create_task(engine.generate(make_job(body), sink))
        await sink.began.wait()
        begin = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert time.monotonic() - begin < 0.2
    count = len(sink.chunks)
    await asyncio.sleep(0)
    assert len(sink.chunks) == count


@pytest.mark.needs("cues")
async def test_a_full_sink_pauses_the_engine(engine: Engine) -> None:
    sink = Collector()
    sink.crowded = True
    async with asyncio.timeout(60):
        task = asyncio.create_task(engine.generate(make_job(chat("!tokens 60000")), sink))
        await sink.began.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        paused_at = len(sink.chunks)
        assert paused_at < 50_000
        sink.drained.set()
        await task
    assert len(sink.chunks) == 60_003


@pytest.mark.needs("content")
async def test_unicode_and_lone_quotes_survive(engine: Engine) -> None:
    text = 'naïve "quotes" \\ 日本語 🎉 \u2028 end'
    body = chat("x")
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": text},
    ]
    sink, _ = await _stream(engine, body)
    assert text in sink.text()


async def test_it_can_be_checked(engine: Engine) -> None:
    await engine.check()
