"""The openai engine against an upstream that is odd, broken, or gone."""

import asyncio
import time
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import (
    DeadlineExceeded,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)
from schemas.providers import OpenAIOptions, OpenAIProvider
from tests.engines.conftest import MODELS
from tests.engines.jobs import Collector, chat, make_job
from tests.support.raw import RawServer, Script, open_raw_server
from tests.support.upstream import (
    Answer,
    Body,
    Cut,
    Fail,
    Silent,
    Stall,
    Upstream,
    Wire,
    open_upstream,
)
from workers.inference.engines import Engine, Outcome
from workers.inference.engines.openai import OpenAIEngine


def _chunk(text: str | None = None, *, end: str | None = None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": end}
    fields = {"id": "theirs-1", "object": "chat.completion.chunk", "created": 7, "model": "theirs"}
    return msgspec.json.encode({**fields, "choices": [choice], **more})


def _events(*payloads: bytes, end: bytes = b"\n") -> bytes:
    return b"".join(b"data: " + payload + end + end for payload in payloads)


HELLO = _events(_chunk("Hel"), _chunk("lo"), _chunk(end="stop"), b"[DONE]")


async def _stream(engine: Engine, **more: Any) -> tuple[Collector, Outcome]:
    sink = Collector()
    async with asyncio.timeout(30):
        outcome = await engine.generate(make_job(chat("hello"), **more), sink)
    return sink, outcome


async def _fail(engine: Engine, **more: Any) -> tuple[Collector, UpstreamError]:
    sink = Collector()
    with pytest.raises(UpstreamError) as caught:
        async with asyncio.timeout(30):
            await engine.generate(make_job(chat("hello"), **more), sink)
    return sink, caught.value


async def test_the_request_goes_up_as_it_came(openai_engine: Engine, upstream: Upstream) -> None:
    body = chat("hello", temperature=0.5, unknown={"kept": [1, 2.50]}, stream=True)
    body["stream_options"] = {"include_obfuscation": False}
    await openai_engine.generate(make_job(body), Collector())
    (call,) = upstream.calls
    assert call.path == "/v1/chat/completions"
    assert call.headers["authorization"] == "Bearer sk-secret-1234567"
    assert call.body == {
        **body,
        "model": "their-model",
        "stream_options": {"include_obfuscation": False, "include_usage": True},
    }


async def test_usage_can_be_left_unasked(upstream: Upstream) -> None:
    engine = _engine(upstream, stream_usage=False)
    await engine.generate(make_job(chat("hello", stream=True)), Collector())
    assert "stream_options" not in upstream.calls[0].body
    await engine.close()


async def test_a_stream_that_is_asked_for_as_a_body_is_one(
    openai_engine: Engine, upstream: Upstream
) -> None:
    await openai_engine.complete(make_job(chat("hello", stream=True), stream=False))
    assert upstream.calls[0].body["stream"] is False


@pytest.mark.parametrize(
    "data",
    [
        HELLO,
        HELLO.replace(b"\n", b"\r\n"),
        HELLO.replace(b"\n", b"\r"),
        HELLO.replace(b"data: ", b"data:"),
        b": hi\n\n" + HELLO.replace(b"\n\n", b"\n\n: ping\n\n"),
        HELLO.replace(b'"created":7', b'"created"\ndata: :7'),
        HELLO.replace(b":", b": ").replace(b"data:  ", b"data: "),
        HELLO.removesuffix(_events(b"[DONE]")),
        HELLO.removesuffix(b"\n\n"),
        HELLO + b"data: garbage after the end\n\n",
        HELLO + b"\x00\xff{" * 50,
        b"\xef\xbb\xbf" + HELLO,
        HELLO.replace(b"data: ", b"event: message\nid: 7\nretry: 10\ndata: "),
        HELLO.replace(b"data: [DONE]", _events(_chunk(end="stop")) + b"data: [DONE]"),
        HELLO.replace(b'"id":"theirs-1",', b'"id":"",', 1),
        HELLO.replace(b'"id":"theirs-1",', b"").replace(b'"model":"theirs",', b""),
    ],
    ids=[
        "plain", "crlf", "cr", "no-space", "comments", "multi-line", "spaces", "no-done",
        "no-last-blank-line", "garbage-after-done", "binary-after-done", "bom", "all-fields",
        "two-equal-ends", "changing-id", "no-names",
    ],
)  # fmt: skip
async def test_every_form_of_stream_is_understood(
    openai_engine: Engine, upstream: Upstream, data: bytes
) -> None:
    upstream.script(Body([data]), Body([data[at : at + 7] for at in range(0, len(data), 7)]))
    for _ in range(2):
        sink, outcome = await _stream(openai_engine)
        assert sink.text() == "Hello"
        assert outcome.finish_reason == "stop"
        assert {(chunk["id"], chunk["model"]) for chunk in sink.parsed()} == {
            ("chatcmpl-1", "our/model")
        }
        assert not any(b"\n" in chunk or b"\r" in chunk for chunk in sink.chunks)


async def test_only_the_names_change(openai_engine: Engine, upstream: Upstream) -> None:
    tricky = 'the "id":"theirs-1" and "model":"theirs" of 日本'
    chunks = [_chunk("a"), _chunk(tricky), _chunk("b", usage=None, extra={"x": 1.50})]
    upstream.script(Body([_events(*chunks, _chunk(end="stop"), b"[DONE]")]))
    sink, _ = await _stream(openai_engine)
    assert sink.text() == f"a{tricky}b"
    assert sink.chunks[2] == chunks[2].replace(b"theirs-1", b"chatcmpl-1").replace(
        b'"theirs"', b'"our/model"'
    )


async def test_tool_call_ids_are_not_ours_to_change(
    openai_engine: Engine, upstream: Upstream
) -> None:
    call = {"index": 0, "id": "theirs-1", "type": "function", "function": {"name": "f"}}
    choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}
    first = {"choices": [choice], "id": "theirs-1", "model": "theirs"}  # as llama.cpp orders them
    upstream.script(Body([_events(msgspec.json.encode(first), _chunk(end="tool_calls"))]))
    sink, _ = await _stream(openai_engine)
    assert sink.parsed()[0]["choices"][0]["delta"]["tool_calls"][0]["id"] == "theirs-1"
    assert sink.parsed()[0]["id"] == "chatcmpl-1"


async def test_usage_in_every_chunk_is_harmless(openai_engine: Engine, upstream: Upstream) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    last = msgspec.json.encode({"id": "theirs-1", "model": "theirs", "usage": usage})
    data = _events(_chunk("a", usage={"total_tokens": 1}), _chunk(end="stop", usage=None), last)
    upstream.script(Body([data + _events(b"[DONE]")]), Body([data]))
    for include in (True, False):
        sink, outcome = await _stream(openai_engine, include_usage=include)
        assert len(sink.chunks) == 2 + include
        assert all("choices" in chunk for chunk in sink.parsed()), "clients look for them"
        assert msgspec.json.decode(outcome.usage or b"") == usage


@pytest.mark.parametrize(
    ("data", "end", "count"),
    [
        (_events(_chunk("a")), "proper", 1),
        (_events(_chunk("a")), "cut", 1),
        (_events(_chunk("a")) + b'data: {"id":"theirs-1","cho', "cut", 1),
        (_events(_chunk("a")) + b'data: {"id":"theirs-1","cho', "proper", 1),
        (_events(_chunk("a"), b'{"error":{"message":"out of memory","code":500}}'), "proper", 1),
        (_events(_chunk("a"), b'{"error":"out of memory"}'), "hang", 1),
        (_events(_chunk("a"), b'{"object":"error","message":"out of memory"}'), "hang", 1),
        (_events(_chunk("a"), b"not JSON", _chunk(end="stop"), b"[DONE]"), "proper", 1),
        (_events(_chunk("a"), b"[1]", _chunk(end="stop"), b"[DONE]"), "proper", 1),
        (_events(_chunk("a"), _chunk("b").replace(b"b", b"\xff")), "proper", 1),
        (_events(_chunk("a")) + b"data: " + b"x" * 1_200_000, "hang", 1),
        (_events(_chunk("a")), "hang", 1),
        (_events(_chunk("a")) + b'event: error\ndata: {"message":"no"}\n\n', "hang", 1),
        (_events(_chunk("a")) + b"event: error\ndata: out of memory\n\n", "hang", 1),
        (_events(_chunk("a"), b'{"error":{"message":"no"},"choices":[]}'), "hang", 1),
        (_events(_chunk("a"), b'"text"', _chunk(end="stop")), "proper", 1),
        (_events(_chunk("a"), b"null", _chunk(end="stop")), "proper", 1),
        (_events(_chunk("a"), b"7", _chunk(end="stop")), "proper", 1),
        (_events(_chunk("a"), b"{}", _chunk(end="stop")), "proper", 1),
        (_events(_chunk("a"), _chunk("b").replace(b'"b"', b'"\x00"')), "proper", 1),
        (_events(_chunk("a"), _chunk("b").replace(b'"b"', b'"\\q"')), "proper", 1),
        (_events(_chunk("a"), b'{"choices":[],"x":' + b"[" * 90_000), "hang", 1),
        (_events(_chunk("a"), b'{"choices":[],"x":%b1%b}' % (b"[" * 9000, b"]" * 9000)), "hang", 1),
        (_events(_chunk("a"), b"", b"  "), "proper", 1),
        (b"retry: 1\n\nid: 7\n\n: nothing else\n\n", "proper", 0),
        (_events(b"[DONE]"), "proper", 0),
        (_events(_chunk("a"), b"[DONE]"), "proper", 1),
        (b"", "proper", 0),
        (b"", "cut", 0),
        (b"<html>no stream at all</html>", "proper", 0),
    ],
)
async def test_a_stream_that_breaks_is_an_error_after_what_was_good(
    openai_engine: Engine, upstream: Upstream, data: bytes, end: str, count: int
) -> None:
    upstream.script(Body([data], end=end))
    sink, error = await _fail(openai_engine)
    assert error.retryable
    assert len(sink.chunks) == count
    assert sink.finish_reasons() == {}


async def test_a_fault_after_the_end_counts_however_it_is_cut(
    openai_engine: Engine, upstream: Upstream
) -> None:
    error = b'{"error":{"message":"out of memory","code":503}}'
    data = _events(_chunk("a"), _chunk(end="stop"), error)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data)
    upstream.script(Wire(head + data), Body([data]), Body([data[:-90], data[-90:]]))
    for _ in range(3):
        _, fault = await _fail(openai_engine)
        assert "out of memory" in fault.message


async def test_of_two_ends_the_last_is_told(openai_engine: Engine, upstream: Upstream) -> None:
    upstream.script(Body([_events(_chunk("a"), _chunk(end="stop"), _chunk(end="length"))]))
    sink, outcome = await _stream(openai_engine)
    assert outcome.finish_reason == "length"
    assert sink.finish_reasons() == {0: "length"}


async def test_an_endless_body_is_refused_while_it_comes(
    openai_engine: Engine, upstream: Upstream
) -> None:
    upstream.script(Body([b" " * (1 << 20)] * 70, content_type="application/json"))
    with pytest.raises(UpstreamError, match="too large"):
        await openai_engine.complete(make_job(chat("x"), stream=False))


async def test_a_body_nested_without_end_is_an_error(
    openai_engine: Engine, upstream: Upstream
) -> None:
    upstream.script(Body([b'{"choices":' + b"[" * 90_000], content_type="application/json"))
    with pytest.raises(UpstreamError):
        await openai_engine.complete(make_job(chat("x"), stream=False))


async def test_a_choice_that_never_ends_is_an_error(
    openai_engine: Engine, upstream: Upstream
) -> None:
    upstream.script(Body([_events(_chunk("a"), _chunk(end="stop"))]))
    sink = Collector()
    with pytest.raises(UpstreamError):
        await openai_engine.generate(make_job(chat("x", n=2)), sink)


async def test_a_cut_after_the_last_word_cuts_nothing_off(
    openai_engine: Engine, upstream: Upstream
) -> None:
    upstream.script(Body([_events(_chunk("a"), _chunk(end="stop"))], end="cut"))
    sink, outcome = await _stream(openai_engine)
    assert (sink.text(), outcome.finish_reason) == ("a", "stop")


async def test_an_upstream_that_hangs_after_its_end_delays_nothing(
    openai_engine: Engine, upstream: Upstream
) -> None:
    upstream.script(Body([HELLO], end="hang"))
    begin = time.monotonic()
    sink, _ = await _stream(openai_engine)
    assert sink.text() == "Hello"
    assert time.monotonic() - begin < 0.5


@pytest.mark.parametrize("part", [Silent(), Stall(0), Stall(3)])
async def test_silence_is_a_timeout(upstream: Upstream, part: Any) -> None:
    engine = _engine(upstream, first_byte_s=0.1, between_s=0.1)
    upstream.script(part)
    _, error = await _fail(engine)
    assert isinstance(error, UpstreamTimeout)
    await asyncio.wait_for(upstream.calls[0].closed.wait(), 1)
    await engine.close()


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
OPENINGS = [
    b": ping\n\n",
    b"\n",
    _events(_chunk("")),
    _events(_chunk()),
    _events(_chunk("").replace(b'"content":""', b'"role":"assistant","content":null')),
    _events(_chunk("").replace(b'"content":""', b'"role":"assistant","tool_calls":[]')),
    _events(_chunk("").replace(b"[{", b'[],"was":[{')),
]


@pytest.mark.parametrize("opening", OPENINGS)
async def test_signs_of_life_are_no_first_token(opening: bytes) -> None:
    async with open_raw_server(Script([], "hang")) as server:
        engine = _engine(server, first_byte_s=5, first_token_s=0.3, between_s=5)
        server.script(Script([STREAM_HEAD, *([opening] * 200)], "hang", pause=0.01))
        began = time.monotonic()
        sink, error = await _fail(engine)
        assert isinstance(error, UpstreamTimeout)
        assert "sent nothing of its answer within 0.3 s" in error.message
        assert 0.25 < time.monotonic() - began < 2
        assert sink.chunks == []  # so that another deployment is tried
        await server.settle(0)


async def test_an_upstream_that_hangs_after_its_head_is_left() -> None:
    async with open_raw_server(Script([STREAM_HEAD], "hang")) as server:
        engine = _engine(server, first_byte_s=0.2)
        sink, error = await _fail(engine)
        assert isinstance(error, UpstreamTimeout)
        assert "did not begin to answer within 0.2 s" in error.message
        assert sink.chunks == []


@pytest.mark.parametrize(
    "first",
    [
        {"content": "a"},
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 0}]},
        {"refusal": "no"},
        {"audio": {"id": "x"}},
    ],
)
async def test_after_the_first_token_comments_keep_a_stream_alive(first: dict[str, Any]) -> None:
    opening = _events(_chunk("")) + _events(_chunk("")).replace(
        b'{"content":""}', msgspec.json.encode(first)
    )
    pieces = [STREAM_HEAD, opening, *([b": ping\n\n"] * 20), _events(_chunk(end="stop"), b"[DONE]")]
    async with open_raw_server(Script(pieces, "fin", pause=0.03)) as server:
        engine = _engine(server, first_byte_s=0.3, first_token_s=0.4, between_s=0.3)
        sink, _ = await _stream(engine)
        assert len(sink.chunks) == 3
        assert sink.sends[0] == 2  # the opening came with the first token
        await engine.close()


async def test_a_stream_has_no_more_time_than_its_total() -> None:
    pieces = [STREAM_HEAD, _events(_chunk("a")), *([b": ping\n\n"] * 500)]
    async with open_raw_server(Script(pieces, "hang", pause=0.01)) as server:
        engine = _engine(server, total_s=0.3)
        for stream in (True, False):
            job = make_job(chat("x"), stream=stream)
            with pytest.raises(UpstreamTimeout, match="longer than it may"):
                await (engine.generate(job, Collector()) if stream else engine.complete(job))
            await server.settle(0)


async def test_silence_is_noticed_before_the_first_tokens_limit_would_end() -> None:
    async with open_raw_server(Script([STREAM_HEAD, _events(_chunk("a"))], "hang")) as server:
        engine = _engine(server, first_byte_s=30, first_token_s=30, between_s=0.2)
        began = time.monotonic()
        _, error = await _fail(engine)
        assert "went silent in its answer within 0.2 s" in error.message
        assert time.monotonic() - began < 3


async def test_much_before_the_first_token_is_not_kept_back() -> None:
    many = _events(*([_chunk("")] * 600))
    async with open_raw_server(Script([STREAM_HEAD, many], "fin")) as server:
        sink, _ = await _fail(_engine(server))
        assert 300 < len(sink.chunks) <= 600


async def test_a_stream_cut_by_the_upstream_is_an_error(
    openai_engine: Engine, upstream: Upstream
) -> None:
    upstream.script(Cut(4))
    sink, _ = await _fail(openai_engine)
    assert len(sink.chunks) == 5


async def test_the_upstream_is_let_go_within_200_ms_of_a_cancel(
    openai_engine: Engine, upstream: Upstream
) -> None:
    for body, stream in ((chat("!pace 30\n!tokens 900"), True), (chat("!stall"), False)):
        sink = Collector()
        job = make_job({**body, "stream": stream}, stream=stream)
        run: Any = openai_engine.generate(job, sink) if stream else openai_engine.complete(job)
        task = asyncio.create_task(run)
        async with asyncio.timeout(30):
            calls = await upstream.count(len(upstream.calls) + 1)
            if stream:
                await sink.began.wait()
            cancelled_at = time.time()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await calls[-1].closed.wait()
        assert calls[-1].closed_at is not None
        assert calls[-1].closed_at - cancelled_at < 0.2


async def test_a_cancel_while_the_sink_is_full_lets_go_too(
    openai_engine: Engine, upstream: Upstream
) -> None:
    sink = Collector()
    sink.crowded = True
    job = make_job(chat("!tokens 100000", stream=True))
    task = asyncio.create_task(openai_engine.generate(job, sink))
    async with asyncio.timeout(30):
        await sink.began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await upstream.calls[0].closed.wait()


async def test_connections_are_used_again(openai_engine: Engine, upstream: Upstream) -> None:
    for _ in range(5):
        await _stream(openai_engine)
        await openai_engine.complete(make_job(chat("hello"), stream=False))
    upstream.script(Fail(500))
    await _fail(openai_engine)
    await _stream(openai_engine)
    assert upstream.accepted == 1


async def test_a_kept_connection_that_the_upstream_closed_is_not_used(
    openai_engine: Engine, upstream: Upstream
) -> None:
    for _ in range(3):
        await _stream(openai_engine)
        # Nothing runs in between: the engine's loop has not yet seen the close.
        upstream.close_idle()
    await _stream(openai_engine)
    assert len(upstream.calls) == 4


async def test_nobody_there_is_an_error_that_another_deployment_may_mend() -> None:
    async with open_upstream() as upstream:
        engine = _engine(upstream)
    _, error = await _fail(engine)
    assert error.retryable
    with pytest.raises(UpstreamError):
        await engine.check()


async def test_an_upstreams_refusal_is_passed_on(openai_engine: Engine, upstream: Upstream) -> None:
    body = {"error": {"message": "too long", "param": "messages", "code": "context_length"}}
    upstream.script(Fail(400, msgspec.json.encode(body).decode()))
    _, error = await _fail(openai_engine)
    assert isinstance(error, UpstreamRejected)
    assert (error.message, error.param, error.wire_code, error.http_status) == (
        "too long", "messages", "context_length", 400,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
async def test_a_rate_limit_says_when_to_come_back(
    openai_engine: Engine, upstream: Upstream, headers: dict[str, str], seconds: float | None
) -> None:
    upstream.script(Fail(429, headers=headers))
    _, error = await _fail(openai_engine)
    assert isinstance(error, UpstreamRateLimited)
    assert error.retry_after == seconds


@pytest.mark.parametrize("status", [401, 403, 500, 400])
async def test_secrets_stay_in(openai_engine: Engine, upstream: Upstream, status: int) -> None:
    text = '{"error":{"message":"no such key: sk-secret-1234567","code":"sk-secret-1234567"}}'
    upstream.script(Fail(status, text))
    _, error = await _fail(openai_engine)
    assert b"sk-secret" not in error.to_wire()
    assert "sk-secret" not in repr(error)


@pytest.mark.parametrize(
    "part",
    [
        Fail(302, headers={"Location": "http://127.0.0.1:1/"}),
        Fail(500, "<html>Bad Gateway</html>"),
        Fail(502, ""),
        Fail(418),
        Fail(200, '{"error":{"message":"no"}}'),
        Fail(200, "{}"),
        Fail(200, headers={"Content-Encoding": "gzip"}),
    ],
)
async def test_other_answers_are_upstream_faults(
    openai_engine: Engine, upstream: Upstream, part: Fail
) -> None:
    upstream.script(part, part)
    _, error = await _fail(openai_engine)
    assert error.http_status == 502
    with pytest.raises(UpstreamError):
        await openai_engine.complete(make_job(chat("x"), stream=False))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"choices":[]}', b'{"id":"\xff"}'])
async def test_a_body_that_is_no_answer_is_an_error(
    openai_engine: Engine, upstream: Upstream, data: bytes
) -> None:
    upstream.script(Body([data], content_type="application/json"))
    with pytest.raises(UpstreamError):
        await openai_engine.complete(make_job(chat("x"), stream=False))


async def test_a_run_past_its_deadline_is_not_started(
    openai_engine: Engine, upstream: Upstream
) -> None:
    with pytest.raises(DeadlineExceeded):
        await openai_engine.generate(make_job(chat("x"), seconds=-1), Collector())
    assert upstream.calls == []


async def test_the_check_tells_a_wrong_key(openai_engine: Engine, upstream: Upstream) -> None:
    await openai_engine.check()
    upstream.check_fails_with = 401
    with pytest.raises(UpstreamError):
        await openai_engine.check()


async def test_a_stream_goes_on_from_what_was_captured(upstream: Upstream) -> None:
    engine = _engine(upstream, continue_final_message=True)
    assert engine.can_continue
    begun = [_chunk("Once "), _chunk("upon")]
    upstream.script(Body([_events(_chunk(" a time"), _chunk(end="stop"), b"[DONE]")]))
    sink = Collector()
    job = make_job(chat("A story.", max_tokens=10), captured=begun)
    await engine.generate(job, sink)
    assert sink.text() == " a time"
    sent = upstream.calls[0].body
    assert sent["messages"][-1] == {"role": "assistant", "content": "Once upon"}
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)
    assert sent["max_tokens"] == 8
    await engine.close()


async def test_a_captured_end_needs_no_upstream(upstream: Upstream) -> None:
    engine = _engine(upstream, continue_final_message=True)
    job = make_job(chat("A story."), captured=[_chunk("Once"), _chunk(end="length")])
    outcome = await engine.generate(job, Collector())
    assert outcome.finish_reason == "length"
    assert upstream.calls == []


async def test_tool_calls_cannot_be_continued(upstream: Upstream) -> None:
    engine = _engine(upstream, continue_final_message=True)
    delta = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]}
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    job = make_job(chat("x"), captured=[msgspec.json.encode({"choices": [choice]})])
    with pytest.raises(UpstreamError):
        await engine.generate(job, Collector())


def _engine(upstream: Upstream | RawServer, **options: Any) -> OpenAIEngine:
    options = {"first_byte_s": 2, "between_s": 2, **options}
    return OpenAIEngine(
        OpenAIProvider(
            name="remote",
            kind="openai",
            base_url=f"http://127.0.0.1:{upstream.port}/v1",
            models=MODELS,
            options=OpenAIOptions(**options),
        )
    )


_PARTS = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"\n", b"\r\n", b"data: ", b": x\n", b"\n\n", b"[DONE]", b"\xf0\x9f", b"{"]),
)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    cut=st.integers(0, len(HELLO)),
    noise=_PARTS,
    end=st.sampled_from(["proper", "cut"]),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
def test_fuzzed_streams_never_hang_and_never_seem_to_succeed(
    cut: int, noise: bytes, end: str, sizes: list[int]
) -> None:
    data = HELLO[:cut] + noise
    pieces = []
    at = 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size

    async def run() -> tuple[Collector, bool]:
        async with open_upstream() as upstream:
            upstream.script(Body(pieces, end=end), Answer())
            engine = _engine(upstream)
            sink = Collector()
            try:
                async with asyncio.timeout(5):
                    await engine.generate(make_job(chat("x")), sink)
            except UpstreamError:
                return sink, False
            finally:
                await engine.close()
            return sink, True

    sink, succeeded = asyncio.run(run())
    assert "Hello".startswith(sink.text())
    if succeeded:
        assert sink.text() == "Hello"
        assert sink.finish_reasons() == {0: "stop"}
