"""The vllm engine, with vLLM itself."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import jsonschema
import msgspec
import pytest
import pytest_asyncio

from schemas.errors import EngineUnavailable, UpstreamError, UpstreamRejected, UpstreamTimeout
from tests.engines.jobs import chat, make_job
from tests.engines.vllm_engine import MAX_LENGTH, Recorder, make_provider, needs_vllm, open_engine
from workers.inference.engines import Captured, Outcome
from workers.inference.engines.vllm import VllmEngine

pytestmark = [
    pytest.mark.vllm,
    needs_vllm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]

SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "sizes": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 3, "maxItems": 4},
    },
    "required": ["colour", "sizes"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}
FORM = {"type": "json_schema", "json_schema": {"name": "paint", "schema": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "paint"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    """One engine for all: to start it takes most of a minute."""
    async with open_engine(tmp_path_factory.mktemp("llama")) as opened:
        yield opened


def greedy(text: str = "a story", **more: Any) -> dict[str, Any]:
    """A request for the likeliest answer, always the same and not too long."""
    return chat(text, **{"max_tokens": 24, **more})


def warm(**more: Any) -> dict[str, Any]:
    """A request for one of many answers."""
    return chat("a story", **{"max_tokens": 12, "temperature": 1, **more})


async def stream(llm: VllmEngine, body: dict[str, Any], **more: Any) -> tuple[Recorder, Outcome]:
    sink = Recorder()
    outcome = await llm.generate(make_job(body, **more), sink)
    return sink, outcome


async def complete(llm: VllmEngine, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    data, _ = await llm.complete(make_job(body, stream=False, **more))
    return dict(msgspec.json.decode(data))


async def test_stream_says_what_the_body_says(llm: VllmEngine) -> None:
    sink, outcome = await stream(llm, greedy())
    body = await complete(llm, greedy())
    assert sink.text() == body["choices"][0]["message"]["content"] != ""
    assert sink.finish_reasons() == {0: "length"}
    usage = msgspec.json.decode(outcome.usage or b"")
    assert usage["completion_tokens"] == 24
    assert usage.items() <= body["usage"].items()
    assert (body["id"], body["model"], body["created"]) == ("chatcmpl-1", "our/model", 1700000001)
    for chunk in sink.parsed():
        assert (chunk["id"], chunk["model"], chunk["created"]) == (
            "chatcmpl-1",
            "our/model",
            1700000001,
        )
        assert chunk["object"] == "chat.completion.chunk"


async def test_usage_chunk_comes_only_if_asked_for(llm: VllmEngine) -> None:
    sink, outcome = await stream(llm, greedy(), include_usage=False)
    assert all(chunk["choices"] and "usage" not in chunk for chunk in sink.parsed())
    assert outcome.usage is not None


async def test_stop_ends_the_answer_before_the_words(llm: VllmEngine) -> None:
    full, _ = await stream(llm, greedy())
    words = full.text()[10:14]
    sink, outcome = await stream(llm, greedy(stop=words))
    assert sink.text() == full.text()[: full.text().find(words)]
    assert outcome.finish_reason == "stop"


@pytest.mark.parametrize("choice", ["required", NAMED])
async def test_tools_are_called_when_asked_for(llm: VllmEngine, choice: Any) -> None:
    body = greedy(tools=[TOOL], tool_choice=choice, parallel_tool_calls=False, max_tokens=300)
    sink, outcome = await stream(llm, body)
    (call,) = sink.tool_calls()
    assert call["name"] == "paint"
    arguments = msgspec.json.decode(call["arguments"])
    jsonschema.validate(arguments, SCHEMA)
    whole = (await complete(llm, body))["choices"][0]
    (made,) = whole["message"]["tool_calls"]
    assert made["function"]["name"] == "paint"
    assert msgspec.json.decode(made["function"]["arguments"]) == arguments
    assert outcome.finish_reason == whole["finish_reason"]


async def test_json_schema_is_filled(llm: VllmEngine) -> None:
    sink, _ = await stream(llm, greedy(response_format=FORM, max_tokens=200))
    jsonschema.validate(msgspec.json.decode(sink.text()), SCHEMA)


async def test_n_gives_several_choices(llm: VllmEngine) -> None:
    body = warm(n=3, seed=5)
    sink, _ = await stream(llm, body)
    whole = await complete(llm, body)
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    assert [sink.text(index) for index in range(3)] == texts
    assert len(set(texts)) == 3


async def test_logprobs_tell_each_token(llm: VllmEngine) -> None:
    body = greedy(logprobs=True, top_logprobs=3)
    told = logprobs((await stream(llm, body))[0])
    assert len(told) == 24
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 3 for token in told)
    assert (await complete(llm, body))["choices"][0]["logprobs"]["content"] == told


async def test_completions_stream_and_come_whole(llm: VllmEngine) -> None:
    body = {"prompt": ["Once upon", "a time"], "max_tokens": 8, "temperature": 0, "echo": True}
    sink, _ = await stream(llm, body, kind="completion")
    whole = await complete(llm, body, kind="completion")
    assert [sink.text(0), sink.text(1)] == [choice["text"] for choice in whole["choices"]]
    assert sink.text().startswith("Once upon")
    assert (whole["object"], whole["id"]) == ("text_completion", "cmpl-1")


async def test_a_prompts_tokens_are_counted(llm: VllmEngine) -> None:
    usage = (await complete(llm, greedy()))["usage"]
    job = replace(make_job(greedy(), stream=False), kind="count")
    body, _ = await llm.complete(job)
    assert msgspec.json.decode(body) == {"input_tokens": usage["prompt_tokens"]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat("x", n=0), "n"),
        (chat("x", n="two"), "n"),
        (chat("x", temperature=-1), "temperature"),
        (chat("x", logit_bias={"99999": 1}), "logit_bias"),
        ({"messages": []}, "messages"),
        ({}, "messages"),
        (chat("x" * MAX_LENGTH), "messages"),
        (chat("x", max_tokens=MAX_LENGTH + 1), "max_tokens"),
    ],
)
@pytest.mark.parametrize("as_stream", [True, False])
async def test_a_wrong_request_is_rejected_naming_the_field(
    llm: VllmEngine, body: dict[str, Any], param: str, as_stream: bool
) -> None:
    job = make_job(body, stream=as_stream)
    run: Any = llm.generate(job, Recorder()) if as_stream else llm.complete(job)
    with pytest.raises(UpstreamRejected) as caught:
        await run
    assert (caught.value.http_status, caught.value.param) == (400, param)
    assert "parameter=" not in caught.value.message


async def test_an_unknown_parameter_is_passed_over(llm: VllmEngine) -> None:
    sink, _ = await stream(llm, greedy(never_heard_of=1))
    assert sink.text() == (await stream(llm, greedy()))[0].text()


@pytest.mark.parametrize("as_stream", [True, False])
async def test_a_cancelled_run_frees_its_place(llm: VllmEngine, as_stream: bool) -> None:
    sink = Recorder()
    job = make_job(greedy(max_tokens=400, ignore_eos=True), stream=as_stream)
    run: Any = llm.generate(job, sink) if as_stream else llm.complete(job)
    task = asyncio.create_task(run)
    async with asyncio.timeout(10):
        if as_stream:
            await sink.began.wait()
        else:
            await until(lambda: count_running(llm) == 1)
        begin = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert time.monotonic() - begin < 0.5
    assert count_running(llm) == 0


@pytest.mark.parametrize("as_stream", [True, False])
async def test_a_deadline_ends_in_a_timeout(llm: VllmEngine, as_stream: bool) -> None:
    job = make_job(greedy(max_tokens=400, ignore_eos=True), stream=as_stream, seconds=0.3)
    run: Any = llm.generate(job, Recorder()) if as_stream else llm.complete(job)
    with pytest.raises(UpstreamTimeout):
        await run
    assert count_running(llm) == 0


async def test_a_full_sink_pauses_the_sending(llm: VllmEngine) -> None:
    sink = Recorder()
    sink.crowded = True
    async with asyncio.timeout(30):
        job = make_job(greedy(max_tokens=100, ignore_eos=True))
        task = asyncio.create_task(llm.generate(job, sink))
        await sink.began.wait()
        await until(lambda: count_running(llm) == 0)  # the engine is done, the run is not
        paused_at = len(sink.chunks)
        sink.drained.set()
        await task
    assert paused_at < len(sink.chunks)
    assert sink.text() == (await stream(llm, greedy(max_tokens=100, ignore_eos=True)))[0].text()


async def test_slots_count_sequences(llm: VllmEngine) -> None:
    assert llm.slots() == 8
    sink = Recorder()
    job = make_job(warm(n=4, max_tokens=200, ignore_eos=True))
    task = asyncio.create_task(llm.generate(job, sink))
    async with asyncio.timeout(10):
        await sink.began.wait()
        assert llm.slots() == 5, "this run, and four more"
        task.cancel()
        await asyncio.wait([task])
    assert llm.slots() == 8


BODIES: dict[str, dict[str, Any]] = {
    "text": greedy(),
    "stop": greedy(max_tokens=40),
    "seed": warm(seed=3),
    "choices": warm(n=2, seed=3),
    "penalties": greedy(frequency_penalty=1.5, presence_penalty=0.5, max_tokens=16),
    "minimum": greedy(min_tokens=10, max_tokens=16),
    "logprobs": greedy(logprobs=True, top_logprobs=2, max_tokens=10),
    "schema": greedy(response_format=FORM, max_tokens=200),
    "warm schema": warm(response_format=FORM, max_tokens=200),
    "tools": greedy(tools=[TOOL], tool_choice="required", max_tokens=60),
    "named tool": greedy(tools=[TOOL], tool_choice=NAMED, max_tokens=60),
}
PROMPTS: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "Once", "temperature": 0, "max_tokens": 12},
    "prompts": {"prompt": ["Once", "upon"], "temperature": 0, "max_tokens": 6},
    "echo": {"prompt": "Once", "temperature": 0, "max_tokens": 8, "echo": True, "logprobs": 1},
}


@pytest.mark.parametrize("name", [*BODIES, *PROMPTS])
async def test_an_answer_goes_on_wherever_it_stopped(llm: VllmEngine, name: str) -> None:
    body = dict({**BODIES, **PROMPTS}[name])
    kind: Any = "completion" if name in PROMPTS else "chat"
    if name == "stop":  # words that begin in one piece and end in another
        text = (await stream(llm, body))[0].text()
        body["stop"] = text[30:36]
    whole, outcome = await stream(llm, body, kind=kind)
    steps = len(whole.moments) // 10 + 1  # to repeat takes as long as it took
    for count, state in [*whole.moments[::steps], whole.moments[-1]]:
        job = make_job(body, kind=kind)
        captured = Captured(whole.chunks[:count], state)
        rest = Recorder()
        again = await llm.generate(replace(job, captured=captured), rest)
        joined = Recorder()
        joined.send(captured.chunks)
        joined.send(rest.chunks)
        told_again, told_once = told(joined), told(whole)
        assert_near(told_again.pop("logprobs"), told_once.pop("logprobs"))
        assert told_again == told_once, f"after {count} chunks"
        assert again == outcome


async def test_an_answer_goes_on_twice(llm: VllmEngine) -> None:
    body = greedy()
    whole, outcome = await stream(llm, body)
    captured = Captured()
    for number in (3, 3, 3):
        rest = Recorder()
        await llm.generate(replace(make_job(body), captured=captured), rest)
        count, state = rest.moments[number]
        captured = Captured(captured.chunks + rest.chunks[:count], captured.state + state)
    rest = Recorder()
    assert await llm.generate(replace(make_job(body), captured=captured), rest) == outcome
    joined = Recorder()
    joined.send(captured.chunks + rest.chunks)
    assert told(joined) == told(whole)


async def test_what_another_engine_began_is_not_continued(llm: VllmEngine) -> None:
    whole, _ = await stream(llm, greedy())
    other, _ = await stream(llm, greedy("another story"))
    for captured in (
        Captured(whole.chunks[:5], b""),
        Captured([b"no chunk"], b""),
        Captured(whole.chunks[:6], other.moments[5][1]),
    ):
        sink = Recorder()
        with pytest.raises(UpstreamError, match="can't be continued"):
            await llm.generate(replace(make_job(greedy()), captured=captured), sink)
        assert sink.chunks == []


async def test_runs_of_one_step_are_written_together(llm: VllmEngine) -> None:
    loop = asyncio.get_running_loop()
    ticks: list[int] = []
    tick = 0

    def count() -> None:
        nonlocal tick, handle
        tick += 1
        handle = loop.call_soon(count)

    class Timed(Recorder):
        def send(self, chunks: Any, state: bytes = b"") -> None:
            super().send(chunks, state)
            ticks.append(tick)

    handle = loop.call_soon(count)
    try:
        jobs = [make_job(greedy(f"story {n}", max_tokens=50, ignore_eos=True)) for n in range(8)]
        await asyncio.gather(*(llm.generate(job, Timed()) for job in jobs))
    finally:
        handle.cancel()
    print(f"{len(ticks)} sendings in {len(set(ticks))} turns of the loop")
    assert len(set(ticks)) < len(ticks) / 4


async def test_vllms_metrics_can_be_collected(llm: VllmEngine) -> None:
    names = {metric.name for metric in llm.collect()}
    assert "vllm:num_requests_running" in names
    assert all(name.startswith("vllm:") for name in names)


async def test_it_can_be_checked(llm: VllmEngine) -> None:
    await llm.check()


async def test_embeddings_are_refused_by_a_model_of_text(llm: VllmEngine) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await complete(llm, {"input": "x"}, kind="embedding")
    assert caught.value.param == "model"


async def test_an_unknown_argument_is_named(tmp_path: Any) -> None:
    other = VllmEngine(make_provider(tmp_path, max_model_length=5))
    with pytest.raises(EngineUnavailable, match=r"max_model_length.*did you mean max_model_len"):
        await other.open(print)


async def test_a_wrong_value_is_named(tmp_path: Any) -> None:
    other = VllmEngine(make_provider(tmp_path, max_num_seqs="many"))
    with pytest.raises(EngineUnavailable, match="max-num-seqs"):
        await other.open(print)


def told(sink: Recorder) -> dict[str, Any]:
    """All that a stream tells, however it is cut into chunks."""
    return {
        "texts": {index: sink.text(index) for index in range(4)},
        "calls": sink.tool_calls() if "delta" in str(sink.chunks[:1]) else None,
        "reasons": sink.finish_reasons(),
        "logprobs": logprobs(sink),
        "usage": [chunk["usage"] for chunk in sink.parsed() if chunk.get("usage")],
    }


def logprobs(sink: Recorder) -> list[Any]:
    """What a stream tells of its tokens."""
    found = [
        choice["logprobs"]
        for chunk in sink.parsed()
        for choice in chunk["choices"]
        if choice.get("logprobs")
    ]
    return [
        entry
        for one in found
        for entry in (one.get("content") or zip(one["tokens"], one["token_logprobs"], strict=True))
    ]


def assert_near(one: Any, other: Any) -> None:
    """The same tokens, with log probabilities as near as two ways of computing them come."""
    if isinstance(one, float):
        assert one == pytest.approx(other, abs=0.01)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert_near(value, other[name])
    elif isinstance(one, list | tuple):
        for part, counterpart in zip(one, other, strict=True):
            assert_near(part, counterpart)
    else:
        assert one == other


def count_running(llm: VllmEngine) -> int:
    """How many requests vLLM has."""
    assert llm._serving is not None
    return int(llm._serving.client.get_num_unfinished_requests())


async def until(true: Any) -> None:
    """Let the loop run until something is so."""
    while not true():  # noqa: ASYNC110  # vLLM tells nobody
        await asyncio.sleep(0.01)
