"""What only the llamacpp engine has: files, slots, its library's errors, and repeating."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.errors import EngineUnavailable, UpstreamError, UpstreamRejected
from tests.engines.conftest import llamacpp_provider
from tests.engines.jobs import Collector, chat, make_job
from tests.engines.test_contract import WEATHER
from workers.inference.engines import ENGINES, Engine
from workers.inference.engines.llama.models import ROOT
from workers.inference.engines.llamacpp import LlamacppEngine

TINY = ROOT / "models" / "jan-tiny.gguf"


@pytest.fixture
async def tiny() -> AsyncIterator[LlamacppEngine]:
    """The engine on the model that comes along, without embeddings, with two slots."""
    async with opened(n_parallel=2) as engine:
        yield engine


class opened:
    """An engine for the context's life."""

    def __init__(self, path: str = "builtin:jan-tiny", **options: Any) -> None:
        self._engine = LlamacppEngine(llamacpp_provider(path, **options))

    async def __aenter__(self) -> LlamacppEngine:
        await self._engine.open(print)
        return self._engine

    async def __aexit__(self, *_error: object) -> None:
        await self._engine.close()


async def stream(engine: Engine, body: dict[str, Any], **more: Any) -> Collector:
    sink = Collector()
    await engine.generate(make_job(body, **more), sink)
    return sink


async def slots(engine: LlamacppEngine) -> list[bool]:
    """Which of the library's slots are at work."""
    reader = _Reader()
    assert engine._client is not None
    await engine._client.exchange("GET", "/slots", reader)
    return [slot["is_processing"] for slot in msgspec.json.decode(reader.data)]


async def until(engine: LlamacppEngine, *, busy: bool) -> None:
    """Ask until a slot of the library is at work, or none."""
    while any(await slots(engine)) != busy:
        pass


class _Reader:
    data = b""

    def on_head(self, status: int, _headers: dict[bytes, bytes]) -> None:
        assert status == 200

    def on_data(self, data: bytes) -> bool:
        self.data += data
        return False


COMPLETION = {"model": "m", "prompt": "Jan Server is", "max_tokens": 60, "ignore_eos": True}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
REQUESTS: dict[str, tuple[dict[str, Any], Any]] = {
    "chat": (chat("What is Jan Server?", max_tokens=40), "chat"),
    "sampled": (chat("What is Jan Server?", max_tokens=40, temperature=1.2), "chat"),
    "tools": (chat("What now?", tools=[WEATHER], tool_choice="required", max_tokens=80), "chat"),
    "schema": (
        chat(
            "A city.",
            max_tokens=40,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "city", "schema": SCHEMA},
            },
        ),
        "chat",
    ),
    "logprobs": (chat("Hello", max_tokens=20, logprobs=True, top_logprobs=2), "chat"),
    "choices": (chat("Hello", max_tokens=20, n=3, temperature=1), "chat"),
    "completion": ({**COMPLETION, "temperature": 0, "max_tokens": 40}, "completion"),
    "echo": ({**COMPLETION, "echo": True, "max_tokens": 20}, "completion"),
    "prompts": ({**COMPLETION, "prompt": ["One", [5, 6]], "max_tokens": 15}, "completion"),
}


@pytest.mark.parametrize("name", list(REQUESTS))
async def test_an_answer_goes_on_after_every_cut(tiny: LlamacppEngine, name: str) -> None:
    body, kind = REQUESTS[name]
    full = await stream(tiny, body, kind=kind)
    whole = by_choice(full.chunks)
    for cut in range(len(full.chunks) + 1):
        sent = full.chunks[:cut]
        rest = await stream(tiny, body, kind=kind, captured=sent)
        assert by_choice([*sent, *rest.chunks]) == whole, f"cut after {cut} chunks"


def by_choice(chunks: list[bytes]) -> dict[int, list[bytes]]:
    """The chunks of each choice in order: those of different ones may mix in any way."""
    found: dict[int, list[bytes]] = {}
    for chunk in chunks:
        choices = msgspec.json.decode(chunk)["choices"]
        found.setdefault(choices[0]["index"] if choices else -1, []).append(chunk)
    return found


async def test_the_same_run_has_the_same_text_in_another_process(tiny: LlamacppEngine) -> None:
    body = chat("Tell me something.", temperature=1.5, max_tokens=60)
    async with opened(n_parallel=1) as other:
        one, same = await stream(tiny, body), await stream(other, body)
    assert one.chunks == same.chunks


async def test_a_text_that_can_not_be_repeated_is_continued(tiny: LlamacppEngine) -> None:
    body = chat("What is Jan Server?", max_tokens=30)
    full = await stream(tiny, body)
    other = [chunk.replace(b'"content":"', b'"content":"Well, ', 1) for chunk in full.chunks[:6]]
    sink = await stream(tiny, body, captured=other)
    assert sink.chunks
    assert b'"role"' not in sink.chunks[0]
    assert set(sink.finish_reasons()) == {0}
    usage = sink.parsed()[-1]["usage"]
    assert usage["completion_tokens"] <= 30
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_a_tool_call_that_can_not_be_repeated_is_an_error(tiny: LlamacppEngine) -> None:
    body, _ = REQUESTS["tools"]
    full = await stream(tiny, body)
    other = [chunk.replace(b"get_weather", b"get_whether") for chunk in full.chunks[:4]]
    assert other != full.chunks[:4]
    with pytest.raises(UpstreamError, match="otherwise"):
        await stream(tiny, body, captured=other)


async def test_a_cancelled_run_frees_its_slot(tiny: LlamacppEngine) -> None:
    async with asyncio.timeout(20):
        for kind in ("stream", "whole"):
            sink = Collector()
            job = make_job({**COMPLETION, "max_tokens": 1900}, kind="completion")
            run: Any = tiny.generate(job, sink) if kind == "stream" else tiny.complete(job)
            task = asyncio.create_task(run)
            await until(tiny, busy=True)
            task.cancel()
            begun = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(tiny, busy=False)
            assert time.monotonic() - begun < 0.5  # 0.2 on a quiet machine
            count = len(sink.chunks)
            assert await tiny.complete(make_job(chat("hi", max_tokens=1)))
            assert len(sink.chunks) == count


async def test_more_choices_than_slots_wait_for_each_other(tiny: LlamacppEngine) -> None:
    sink = await stream(tiny, chat("Hi", n=5, max_tokens=5, temperature=1))
    assert set(sink.finish_reasons()) == {0, 1, 2, 3, 4}


async def test_the_loop_turns_while_four_runs_generate() -> None:
    async with opened(n_parallel=4) as engine:
        body = {**COMPLETION, "max_tokens": 500}
        runs = [asyncio.create_task(stream(engine, body, kind="completion")) for _ in range(4)]
        lags = []
        while not all(run.done() for run in runs):
            begun = time.monotonic()
            await asyncio.sleep(0.001)
            lags.append(time.monotonic() - begun - 0.001)
        lags.sort()
        assert lags[len(lags) // 2] < 0.02


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, "messages"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
                        ],
                    }
                ]
            },
            "messages",
        ),
        ({"grammar": 'root ::= "a"'}, "grammar"),
        ({"functions": []}, "functions"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {"type": "function", "function": {"name": "other"}},
            },
            "tool_choice",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"$ref": "#/nowhere"}},
                }
            },
            "response_format",
        ),
        ({"top_k": "many"}, "top_k"),
        ({"n": 1000}, "n"),
    ],
)
async def test_a_fault_of_the_request_names_the_field(
    tiny: LlamacppEngine, more: dict[str, Any], param: str
) -> None:
    sink = Collector()
    with pytest.raises(UpstreamRejected) as caught:
        await tiny.generate(make_job(chat("x") | more), sink)
    assert caught.value.http_status == 400
    assert caught.value.param == param
    assert sink.chunks == []


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": []}, "prompt"),
    ],
)
async def test_a_completion_that_can_not_be_made_names_the_field(
    tiny: LlamacppEngine, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await tiny.complete(make_job(COMPLETION | more, kind="completion"))
    assert caught.value.param == param


async def test_a_prompt_that_is_too_long_says_so(tiny: LlamacppEngine) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await tiny.complete(make_job(chat("word " * 9000)))
    assert caught.value.wire_code == "context_length_exceeded"


async def test_embeddings_want_a_model_that_makes_them(tiny: LlamacppEngine) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await tiny.complete(make_job({"model": "m", "input": "x"}, kind="embedding"))
    assert caught.value.param == "model"


async def test_a_prompt_is_counted_as_usage_counts_it(tiny: LlamacppEngine) -> None:
    body = chat("What is Jan Server?", max_tokens=1)
    answer, _ = await tiny.complete(make_job(body, kind="count"))
    whole, _ = await tiny.complete(make_job(body))
    usage = msgspec.json.decode(whole)["usage"]
    assert msgspec.json.decode(answer) == {"input_tokens": usage["prompt_tokens"]}


async def test_a_completion_of_no_tokens_is_the_prompt(tiny: LlamacppEngine) -> None:
    body = COMPLETION | {"max_tokens": 0, "echo": True}
    answer, outcome = await tiny.complete(make_job(body, kind="completion"))
    assert msgspec.json.decode(answer)["choices"][0]["text"] == "Jan Server is"
    assert outcome.finish_reason == "length"


HOSTILE_SCHEMAS: dict[str, Any] = {
    "deep": None,
    "pattern": {"type": "string", "pattern": "^(" * 500 + ")" * 500 + "$"},
    "steep pattern": {"type": "string", "pattern": "^" + "(" * 200_000 + "a" + ")" * 200_000 + "$"},
    "long pattern": {"type": "string", "pattern": "^" + "[a-z]?" * 3_000 + "$"},
    "choices": {"enum": [f"choice {number}" for number in range(20_000)]},
    "many": {"anyOf": [{"type": "string", "const": str(number)} for number in range(5_000)]},
    "negative": {"type": "array", "items": {}, "minItems": 5, "maxItems": -1},
    "repeat": {"type": "string", "pattern": "^(a{1,9999}){1,9999}$"},
    "items": {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
    "length": {"type": "string", "minLength": 10**9, "maxLength": 10**10},
    "loop": {"$ref": "#"},
    "number": {"type": "integer", "minimum": -(10**30), "maximum": 10**30},
    "kind": {"type": ["string", 5]},
    "list": [1, 2],
}


@pytest.mark.parametrize("name", list(HOSTILE_SCHEMAS))
async def test_a_hostile_schema_ends_its_run_and_nothing_else(
    tiny: LlamacppEngine, name: str
) -> None:
    schema = HOSTILE_SCHEMAS[name]
    if schema is None:
        schema = {"type": "string"}
        for _ in range(3000):
            schema = {"type": "array", "items": schema}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = chat("x", response_format=form, max_tokens=3)
    async with asyncio.timeout(30):
        try:
            job = make_job(body)
        except RecursionError:  # the edge refuses it, too
            return
        with_error = await asyncio.gather(tiny.complete(job), return_exceptions=True)
    assert isinstance(with_error[0], tuple | UpstreamError)
    assert await tiny.complete(make_job(chat("still here?", max_tokens=1)))


def _broken_files(folder: Path) -> dict[str, str]:
    data = TINY.read_bytes()
    contents = {"empty": b"", "random": os.urandom(5000), "damaged": data[:24] + os.urandom(50_000)}
    for cut in (3, 10, 30, 1000, 60_000, 1_000_000, len(data) - 1):
        contents[f"cut at {cut}"] = data[:cut]
    contents["other architecture"] = data.replace(b"llama", b"lambs", 1)
    files = {}
    for name, content in contents.items():
        file = folder / f"{name}.gguf"
        file.write_bytes(content)
        files[name] = str(file)
    return files | {"directory": str(folder), "missing": str(folder / "none.gguf")}


async def test_a_broken_file_is_told_in_one_line(tmp_path: Path) -> None:
    for name, path in _broken_files(tmp_path).items():
        with pytest.raises(EngineUnavailable) as caught:
            async with opened(path):
                pass
        assert path in caught.value.message, name
        assert "\n" not in caught.value.message


async def test_a_file_that_may_not_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "secret.gguf"
    file.write_bytes(TINY.read_bytes())
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("root may read everything")
    with pytest.raises(EngineUnavailable, match="permission"):
        async with opened(str(file)):
            pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"params": {"no_such_key": 1}}, "no such key"),
        ({"params": {"rope_freq_bas": 1.0}}, "did you mean rope_freq_base"),
        ({"params": {"port": 80}}, "set by the options"),
        ({"params": {"rope_freq_base": "much"}}, "rope_freq_base"),
        ({"chat_template_file": "/none.jinja"}, "no such file"),
        ({"n_ctx": 2048, "n_parallel": 256, "path": "huge"}, "not enough memory"),
    ],
)
async def test_wrong_options_are_told_in_one_line(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    if options.get("path") == "huge":
        file = tmp_path / "huge.gguf"
        file.write_bytes(TINY.read_bytes())
        os.truncate(file, 1 << 42)
        options = options | {"path": str(file)}
    with pytest.raises(EngineUnavailable, match=words):
        async with opened(**options):
            pass


async def test_a_model_that_no_hub_has_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JAN_DATA", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(EngineUnavailable, match=r"can't be fetched .* \(connection refused\)"):
        async with opened("hf:owner/repository/model.gguf"):
            pass
    with pytest.raises(EngineUnavailable, match="say hf:OWNER/REPO/FILE"):
        async with opened("hf:model.gguf"):
            pass


async def test_a_model_that_was_fetched_is_not_fetched_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JAN_DATA", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "owner--repository--model.gguf").write_bytes(TINY.read_bytes())
    async with opened("hf:owner/repository/model.gguf") as engine:
        assert await engine.complete(make_job(chat("hi", max_tokens=1)))


async def test_nothing_listens_but_a_socket_of_this_user(tiny: LlamacppEngine) -> None:
    socket = Path(tiny._library.socket)
    assert socket.is_socket()  # noqa: ASYNC240 - a test may wait for a disk
    assert socket.parent.stat().st_mode & 0o077 == 0


async def test_params_and_options_reach_the_library() -> None:
    async with opened(n_ctx=256, params={"sampling.top_k": 7, "n_keep": 3}, flash_attn="off") as it:
        reader = _Reader()
        assert it._client is not None
        await it._client.exchange("GET", "/props", reader)
    told = msgspec.json.decode(reader.data)["default_generation_settings"]
    assert told["n_ctx"] == 256
    assert told["params"]["top_k"] == 7


def test_it_is_listed() -> None:
    assert ENGINES["llamacpp"](llamacpp_provider()).slots() == 4
