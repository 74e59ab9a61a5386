"""The simulated engine: what only it promises."""

import asyncio
import math
import signal
import sys
from typing import Any

import msgspec
import pytest

from schemas.errors import UpstreamError, UpstreamRejected
from schemas.providers import SimulatedOptions, SimulatedProvider
from tests.engines.conftest import MODELS
from tests.engines.jobs import Collector, chat, make_job
from workers.inference.engines import Engine
from workers.inference.engines.simulated import SimulatedEngine
from workers.inference.engines.simulation.cues import Cues, read_cues
from workers.inference.engines.simulation.sentences import tokenise

TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
BODIES = {
    "text": chat("a story"),
    "two choices": chat("a story", n=2),
    "logprobs": chat("a story", logprobs=True, top_logprobs=2, max_tokens=9),
    "tools": chat("find it", tools=[TOOL], n=2),
    "schema": chat("x", response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}}),
    "stop": chat("a story", stop="e", n=3),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("include_usage", [True, False])
async def test_an_answer_goes_on_exactly_where_it_stopped(
    simulated_engine: Engine, name: str, include_usage: bool
) -> None:
    body = BODIES[name]
    whole = Collector()
    job = make_job(body, include_usage=include_usage)
    outcome = await simulated_engine.generate(job, whole)
    for count in range(len(whole.chunks) + 1):
        rest = Collector()
        job = make_job(body, include_usage=include_usage, captured=whole.chunks[:count])
        assert await simulated_engine.generate(job, rest) == outcome
        assert whole.chunks[:count] + rest.chunks == whole.chunks


async def test_an_answer_that_another_model_began_is_not_continued(
    simulated_engine: Engine,
) -> None:
    job = make_job(chat("x"), captured=[b'{"choices":[]}'])
    with pytest.raises(UpstreamError):
        await simulated_engine.generate(job, Collector())


async def test_the_providers_seed_decides_too() -> None:
    texts = set()
    for seed in (1, 2):
        sink = Collector()
        await _engine(seed=seed).generate(make_job(chat("a story")), sink)
        texts.add(sink.text())
    assert len(texts) == 2


async def test_the_length_is_an_option_and_a_cue() -> None:
    sink = Collector()
    await _engine(tokens=7).generate(make_job(chat("a story")), sink)
    assert len(tokenise(sink.text())) == 7
    sink = Collector()
    await _engine(tokens=7, cues=True).generate(make_job(chat("x\n!tokens 12")), sink)
    assert len(tokenise(sink.text())) == 12


async def test_cues_are_text_where_they_are_not_allowed() -> None:
    sink = Collector()
    await _engine(cues=False).generate(make_job(chat("!fail 500\n!die\n!stall")), sink)
    assert sink.text()


@pytest.mark.parametrize(
    ("text", "cues"),
    [
        ("hello", Cues()),
        ("wow! great", Cues()),
        ("!important: read", Cues()),
        ("!fail 503", Cues(fail=(503, 0))),
        ("hi\n  !fail 500 4  \nbye", Cues(fail=(500, 4))),
        ("!die 20", Cues(die=20)),
        ("!stall\n!pace 2.5\n!ttft 0", Cues(stall=0, pace=2.5, ttft=0.0)),
        ('!tool f {"a": 1}\n!tool g', Cues(tools=(("f", '{"a": 1}'), ("g", None)))),
    ],
)
def test_cues_are_read_from_lines(text: str, cues: Cues) -> None:
    assert read_cues(text) == cues


@pytest.mark.parametrize("text", ["!fail", "!fail 200", "!die soon", "!tool", "!tool f {", "!pace"])
def test_a_wrong_cue_is_told(text: str) -> None:
    with pytest.raises(UpstreamRejected, match="cue"):
        read_cues(text)


async def test_a_tool_cue_calls_with_just_these_arguments(simulated_engine: Engine) -> None:
    sink = Collector()
    text = '!tool find {"what": "a \\"key\\""}\n!tool other'
    await simulated_engine.generate(make_job(chat(text, tools=[TOOL])), sink)
    assert sink.tool_calls() == [
        {"name": "find", "arguments": '{"what": "a \\"key\\""}'},
        {"name": "other", "arguments": "{}"},
    ]
    sink = Collector()
    body = chat(text, tools=[TOOL], parallel_tool_calls=False)
    await simulated_engine.generate(make_job(body), sink)
    assert [call["name"] for call in sink.tool_calls()] == ["find"]


async def test_only_allowed_tools_are_called(simulated_engine: Engine) -> None:
    allowed = {"type": "function", "function": {"name": "other"}}
    choice = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [allowed]},
    }
    other = {"type": "function", "function": {"name": "other"}}
    body = chat("find it", tools=[TOOL, other], tool_choice=choice)
    sink = Collector()
    await simulated_engine.generate(make_job(body), sink)
    assert [call["name"] for call in sink.tool_calls()] == ["other"]


async def test_a_custom_tool_gets_a_text(simulated_engine: Engine) -> None:
    custom = {"type": "custom", "custom": {"name": "write"}}
    body = chat("x", tools=[custom], tool_choice="required")
    whole, _ = await simulated_engine.complete(make_job(body, stream=False))
    (call,) = msgspec.json.decode(whole)["choices"][0]["message"]["tool_calls"]
    assert (call["type"], call["custom"]["name"]) == ("custom", "write")
    assert call["custom"]["input"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"content": "x"}]}, "messages[0]"),
        (chat("x", max_tokens="many"), "max_tokens"),
        (chat("x", max_tokens=-1), "max_tokens"),
        (
            chat("x", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "y"}}),
            "tool_choice",
        ),
        (chat("x", response_format={"type": "json_schema"}), None),
        (
            chat(
                "x",
                response_format={
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "integer", "minimum": 2, "maximum": 1}},
                },
            ),
            "response_format.json_schema.schema",
        ),
    ],
)
async def test_a_rejection_names_the_field(
    simulated_engine: Engine, body: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await simulated_engine.generate(make_job(body), Collector())
    assert param is None or caught.value.param == param


async def test_fast_answers_leave_the_loop_room_and_go_in_batches() -> None:
    sink, other = Collector(), 0
    task = asyncio.create_task(_engine(tokens=5000).generate(make_job(chat("x")), sink))
    while not task.done():
        await asyncio.sleep(0)
        other += 1
    assert other > 200
    assert sink.sends[0] == 2, "the first token goes at once"
    assert max(sink.sends) == 16


async def test_a_late_token_moves_no_other() -> None:
    loop = asyncio.get_running_loop()
    engine = _engine(tokens=50, token_ms=4, ttft_ms=20)
    begin = loop.time()
    sinks = [_Clock() for _ in range(20)]
    async with asyncio.TaskGroup() as group:
        for sink in sinks:
            group.create_task(engine.generate(make_job(chat("x")), sink))
    for sink in sinks:
        for number, at in enumerate(sink.times[1:51]):  # without the role
            assert at - begin >= 0.020 + number * 0.004 - 0.002
        assert len(sink.chunks) == 53
    assert loop.time() - begin < 2


class _Clock(Collector):
    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def send(self, chunks: Any) -> None:
        super().send(chunks)
        self.times += [asyncio.get_running_loop().time()] * len(chunks)


@pytest.mark.parametrize(
    ("captured", "status", "chunks"),
    [(0, -signal.SIGKILL, 7), (3, -signal.SIGKILL, 4), (7, 0, 8)],
    ids=["at first", "again before it", "not again after it"],
)
async def test_die_ends_the_process_after_so_many_tokens(
    captured: int, status: int, chunks: int
) -> None:
    command = (sys.executable, "-m", "tests.engines.dying", str(captured))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == status
    assert len(output.splitlines()) == chunks  # the role is a chunk, too; so are end and usage


async def test_similar_texts_have_similar_vectors(simulated_engine: Engine) -> None:
    asked = ["the cat sat on the mat", "the cat lay on the mat", "quarterly revenue fell"]
    job = make_job({"input": asked}, kind="embedding", stream=False)
    body, outcome = await simulated_engine.complete(job)
    one, near, far = (entry["embedding"] for entry in msgspec.json.decode(body)["data"])
    assert len(one) == 384
    assert _dot(one, near) > 0.5 > _dot(one, far)
    assert outcome.usage is not None


async def test_large_prompts_are_counted_off_the_loop(simulated_engine: Engine) -> None:
    sink = Collector()
    outcome = await simulated_engine.generate(make_job(chat("word " * 50_000)), sink)
    assert msgspec.json.decode(outcome.usage or b"")["prompt_tokens"] > 50_000


def _dot(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def _engine(**options: Any) -> SimulatedEngine:
    options = {"ttft_ms": 0, "token_ms": 0, **options}
    return SimulatedEngine(
        SimulatedProvider(
            name="simulated",
            kind="simulated",
            models=MODELS,
            options=SimulatedOptions(**options),
        )
    )
