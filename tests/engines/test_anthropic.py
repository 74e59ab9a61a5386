"""What is the anthropic engine's own: the translation, its extensions, its faults."""

from typing import Any

import msgspec
import pytest

from schemas.errors import UpstreamError, UpstreamRateLimited, UpstreamRejected
from schemas.providers import AnthropicOptions, AnthropicProvider
from tests.engines.conftest import MODELS
from tests.engines.jobs import Collector, chat, make_job
from tests.support.anthropic_upstream import fault_of
from tests.support.upstream import Body, Cut, Fail, Upstream
from workers.inference.engines import ENGINES, Engine
from workers.inference.engines.messages.extensions import remove_extensions
from workers.inference.engines.messages.request import to_messages

PIXEL = "data:image/png;base64,iVBORw0KGgo="
CALL = {"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
THOUGHT = {"type": "thinking", "index": 0, "thinking": "Hm.", "signature": "sig"}
HIDDEN = {"type": "redacted_thinking", "index": 1, "data": "enc"}


def translate(body: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The Messages request for a chat, checked against the SDK's types."""
    fields = msgspec.json.decode(msgspec.json.encode(body), type=dict[str, msgspec.Raw])
    request = to_messages(fields, "claude", AnthropicOptions(**options))
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(request))
    sampling = {"temperature", "top_p", "top_k"}
    fault = fault_of({name: found[name] for name in found if name not in sampling})
    assert fault is None, fault
    return found


def turns(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A chat request with these messages."""
    return {"model": "m", "messages": list(messages), **more}


def user(content: Any) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": content}


def events(*items: dict[str, Any]) -> list[bytes]:
    """A stream's bytes."""
    return [
        b"event: %b\ndata: %b\n\n" % (item["type"].encode(), msgspec.json.encode(item))
        for item in items
    ]


def start(**usage: int) -> dict[str, Any]:
    """The first event."""
    message = {"id": "msg_up", "type": "message", "role": "assistant", "content": []}
    return {"type": "message_start", "message": {**message, "usage": usage}}


def block(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    """The start of a block."""
    content = {"type": kind, **fields}
    return {"type": "content_block_start", "index": index, "content_block": content}


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    """A piece of a block."""
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def stop(index: int) -> dict[str, Any]:
    """The end of a block."""
    return {"type": "content_block_stop", "index": index}


def end(reason: str = "end_turn", sequence: str | None = None, **usage: Any) -> list[Any]:
    """The last two events."""
    told = {"stop_reason": reason, "stop_sequence": sequence}
    return [{"type": "message_delta", "delta": told, "usage": usage}, {"type": "message_stop"}]


TEXT = [block(0, "text", text=""), delta(0, "text_delta", text="Hello"), stop(0)]


async def stream(engine: Engine, body: dict[str, Any], **more: Any) -> tuple[Collector, Any]:
    """Stream into a new sink."""
    sink = Collector()
    return sink, await engine.generate(make_job(body, **more), sink)


def deltas(sink: Collector) -> list[dict[str, Any]]:
    """All deltas of the first choice."""
    return [chunk["choices"][0]["delta"] for chunk in sink.parsed() if chunk["choices"]]


def test_instructions_go_to_system_and_roles_take_turns() -> None:
    request = translate(
        turns(
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            user("One."),
            user("Two."),
            {"role": "assistant", "content": "Three."},
            user([{"type": "text", "text": ""}, {"type": "text", "text": "Four."}]),
        )
    )
    assert [block["text"] for block in request["system"]] == ["Be brief.", "Be kind."]
    told = [(m["role"], [b["text"] for b in m["content"]]) for m in request["messages"]]
    assert told == [("user", ["One.", "Two."]), ("assistant", ["Three."]), ("user", ["Four."])]


def test_pictures_and_files_become_blocks() -> None:
    pdf = {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"}
    parts = [
        {"type": "image_url", "image_url": {"url": PIXEL}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "file", "file": pdf},
    ]
    one, other, document = translate(turns(user(parts)))["messages"][0]["content"]
    assert one["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    assert other["source"] == {"type": "url", "url": "https://example.com/a.png"}
    assert (document["type"], document["title"]) == ("document", "a.pdf")


def test_tools_their_calls_and_their_answers_are_translated() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    bare = {"type": "function", "function": {"name": "g", "description": "no arguments"}}
    request = translate(
        turns(
            user("Go."),
            {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "toolu_2"}]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "1"},
            {"role": "tool", "tool_call_id": "toolu_2", "content": "2", "is_error": True},
            user([{"type": "image_url", "image_url": {"url": PIXEL}, "tool_call_id": "toolu_2"}]),
            user("And?"),
            tools=[tool, bare],
            parallel_tool_calls=False,
        )
    )
    assert [one["name"] for one in request["tools"]] == ["f", "g"]
    assert request["tools"][1]["input_schema"]["type"] == "object"
    assert request["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    _, said, answered = request["messages"]
    assert said["content"][0] == {
        "type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1},
    }  # fmt: skip
    one, two, text = answered["content"]
    assert (one["type"], one["tool_use_id"], one.get("is_error")) == (
        "tool_result",
        "toolu_1",
        None,
    )
    assert two["is_error"] is True
    assert [inner["type"] for inner in two["content"]] == ["text", "image"]
    assert text == {"type": "text", "text": "And?"}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "f"}}, {"type": "tool", "name": "f"}),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "f"}}],
                },
            },
            {"type": "any"},
        ),
    ],
)
def test_tool_choices_are_translated(choice: Any, expected: Any) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    assert translate(turns(user("x"), tools=[tool], tool_choice=choice))["tool_choice"] == expected


def test_functions_that_were_called_before_are_told_but_can_not_be_called_now() -> None:
    functions = [{"name": name, "arguments": "{}"} for name in ("look", "look", "add")]
    calls = [
        {"id": f"call_{number}", "type": "function", "function": function}
        for number, function in enumerate(functions)
    ]
    said = {"role": "assistant", "content": None, "tool_calls": calls}
    answers = [{"role": "tool", "tool_call_id": call["id"], "content": "x"} for call in calls]
    found = translate(turns(user("go"), said, *answers))
    assert [tool["name"] for tool in found["tools"]] == ["look", "add"]
    assert found["tool_choice"] == {"type": "none"}
    assert "tools" not in translate(turns(user("go")))


def test_thoughts_go_back_to_where_they_stood() -> None:
    said = {
        "role": "assistant",
        "content": "So.",
        "tool_calls": [CALL],
        "reasoning_content": "Hm.",
        "reasoning_details": [THOUGHT, HIDDEN, {"type": "reasoning.text", "text": "other's"}],
    }
    answer = {"role": "tool", "tool_call_id": "toolu_1", "content": "1"}
    blocks = translate(turns(user("x"), said, answer))["messages"][1]["content"]
    assert [one["type"] for one in blocks] == ["thinking", "redacted_thinking", "text", "tool_use"]
    assert (blocks[0]["thinking"], blocks[0]["signature"]) == ("Hm.", "sig")
    assert blocks[1]["data"] == "enc"


def test_sampling_is_sent_where_it_is_wanted() -> None:
    body = turns(user("x"), temperature=1.7, top_p=0.9, top_k=5, seed=3, stop="END", user="u1")
    request = translate(body)
    assert not {"temperature", "top_p", "top_k", "seed"} & set(request)
    assert (request["stop_sequences"], request["metadata"]) == (["END"], {"user_id": "u1"})
    request = translate(body, sampling=True)
    assert (request["temperature"], request["top_p"], request["top_k"]) == (1.0, 0.9, 5)


def test_max_tokens_has_a_default() -> None:
    assert translate(turns(user("x")))["max_tokens"] == 4096
    assert translate(turns(user("x")), max_tokens=9)["max_tokens"] == 9
    assert translate(turns(user("x"), max_tokens=5))["max_tokens"] == 5
    assert translate(turns(user("x"), max_tokens=5, max_completion_tokens=6))["max_tokens"] == 6


def test_reasoning_effort_is_an_effort_or_a_budget() -> None:
    request = translate(turns(user("x"), reasoning_effort="minimal"))
    assert request["thinking"]["type"] == "adaptive"
    assert request["output_config"] == {"effort": "low"}
    assert translate(turns(user("x"), reasoning_effort="none"))["thinking"] == {"type": "disabled"}
    asked = turns(user("x"), reasoning_effort="high", max_tokens=9000)
    request = translate(asked, thinking="budget")
    assert request["thinking"] == {"type": "enabled", "budget_tokens": 8999}
    asked = turns(user("x"), reasoning_effort="high", max_tokens=900)
    assert "thinking" not in translate(asked, thinking="budget")


def test_a_schema_and_the_extras_are_passed_on() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    extras = {"output_config": {"effort": "max"}, "thinking": {"type": "adaptive"}, "model": "no"}
    request = translate(turns(user("x"), response_format=form, anthropic=extras))
    assert request["output_config"]["format"] == {"type": "json_schema", "schema": schema}
    assert request["output_config"]["effort"] == "max"
    assert (request["thinking"], request["model"]) == ({"type": "adaptive"}, "claude")


def test_marks_for_the_cache_stay_where_they_are() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    tool = {"type": "function", "function": {"name": "f"}, "cache_control": mark}
    part = {"type": "text", "text": "long", "cache_control": mark}
    system = {"role": "system", "content": [part]}
    request = translate(turns(system, user([part]), tools=[tool]))
    for found in (request["system"][0], request["messages"][0]["content"][0], request["tools"][0]):
        assert found["cache_control"] == mark


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (turns(user("x"), n=2), "n"),
        (turns(user("x"), logprobs=True), "logprobs"),
        (turns(user("x"), logit_bias={"1": 1}), "logit_bias"),
        (turns(user("x"), presence_penalty=0.5), "presence_penalty"),
        (turns(user("x"), frequency_penalty=-1), "frequency_penalty"),
        (turns(user("x"), response_format={"type": "json_object"}), "response_format.type"),
        (turns(user("x"), tools=[{"type": "custom", "custom": {"name": "c"}}]), "tools[0].type"),
        (turns(user([{"type": "input_audio"}])), "messages[0].content[0].type"),
        (
            turns(user([{"type": "image_url", "image_url": {"url": "ftp://x"}}])),
            "messages[0].content[0].image_url.url",
        ),
        (
            turns(
                user("x"),
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}],
                },
            ),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (turns({"role": "tool", "content": "x"}), "messages[0].tool_call_id"),
        (
            turns(
                user("x"),
                anthropic={"output_config": 5},
                response_format={"type": "json_schema", "json_schema": {"schema": {}}},
            ),
            "anthropic.output_config",
        ),
        (turns({"role": "system", "content": "x"}), "messages"),
        (turns({"role": "user", "content": 5}), "messages[0].content"),
    ],
)
def test_what_messages_can_not_do_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        translate(body)
    assert (caught.value.http_status, caught.value.param) == (400, param)


@pytest.mark.parametrize("kind", ["completion", "embedding"])
async def test_only_chat_is_served(anthropic_engine: Engine, kind: Any) -> None:
    job = make_job({"prompt": "x", "input": "x"}, kind=kind, stream=False)
    with pytest.raises(UpstreamRejected) as caught:
        await anthropic_engine.complete(job)
    assert caught.value.param == "model"


async def test_the_key_and_the_version_are_sent(
    anthropic_engine: Engine, anthropic_upstream: Upstream
) -> None:
    await anthropic_engine.complete(make_job(chat("x"), stream=False))
    [call] = anthropic_upstream.calls
    assert call.headers["x-api-key"] == "sk-ant-secret-1234567"
    assert call.headers["anthropic-version"] == "2026-10-21"
    assert (call.path, call.body["model"]) == ("/v1/messages", "their-model")


async def test_the_key_is_a_bearer_token_if_so_set(anthropic_upstream: Upstream) -> None:
    engine = ENGINES["anthropic"](
        AnthropicProvider(
            name="remote",
            kind="anthropic",
            base_url=anthropic_upstream.base_url,
            api_key="sk-1",  # type: ignore[arg-type]
            models=MODELS,
            headers={"anthropic-beta": "a-2026-01-01"},
            options=AnthropicOptions(auth="bearer", version="2023-06-01"),
        )
    )
    await engine.complete(make_job(chat("x"), stream=False))
    await engine.close()
    [call] = anthropic_upstream.calls
    assert call.headers["authorization"] == "Bearer sk-1"
    assert call.headers["anthropic-beta"] == "a-2026-01-01"
    assert call.headers["anthropic-version"] == "2023-06-01"
    assert "x-api-key" not in call.headers


async def test_thoughts_are_told_with_what_must_be_sent_back(
    anthropic_engine: Engine, anthropic_upstream: Upstream
) -> None:
    pieces = events(
        start(input_tokens=10, cache_read_input_tokens=5, cache_creation_input_tokens=2),
        {"type": "ping"},
        block(0, "thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="H"),
        delta(0, "thinking_delta", thinking="m."),
        delta(0, "signature_delta", signature="sig"),
        stop(0),
        block(1, "redacted_thinking", data="enc"),
        stop(1),
        block(2, "text", text=""),
        delta(2, "text_delta", text="Hello"),
        delta(2, "citations_delta", citation={}),
        stop(2),
        block(3, "tool_use", id="toolu_1", name="f", input={}),
        delta(3, "input_json_delta", partial_json=""),
        delta(3, "input_json_delta", partial_json='{"a"'),
        delta(3, "input_json_delta", partial_json=":1}"),
        stop(3),
        {"type": "something_new", "index": "?"} | {"index": 0},
        *end("tool_use", output_tokens=7, output_tokens_details={"thinking_tokens": 3}),
    )
    anthropic_upstream.script(Body(pieces))
    sink, outcome = await stream(anthropic_engine, chat("x"))
    found = deltas(sink)
    assert found[0] == {"role": "assistant", "content": ""}
    assert "".join(one.get("reasoning_content", "") for one in found) == "Hm."
    details = [one for part in found for one in part.get("reasoning_details", ())]
    assert details == [THOUGHT, HIDDEN]
    assert sink.text() == "Hello"
    assert sink.tool_calls() == [{"name": "f", "arguments": '{"a":1}'}]
    assert sink.finish_reasons() == {0: "tool_calls"}
    usage = msgspec.json.decode(outcome.usage)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (17, 7)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 5, "cache_write_tokens": 2}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 3}
    # What was told goes back as it came.
    said = {"role": "assistant", "content": "Hello", "reasoning_details": details}
    blocks = translate(turns(user("x"), said))["messages"][1]["content"]
    assert [one["type"] for one in blocks] == ["thinking", "redacted_thinking", "text"]


async def test_a_whole_answer_tells_the_same(
    anthropic_engine: Engine, anthropic_upstream: Upstream
) -> None:
    message = {
        "id": "msg_up", "type": "message", "role": "assistant", "model": "their-model",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
            {"type": "redacted_thinking", "data": "enc"},
            {"type": "text", "text": "Hello", "citations": None},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use", "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 7, "cache_read_input_tokens": 5},
    }  # fmt: skip
    body = msgspec.json.encode(message)
    anthropic_upstream.script(Body([body], content_type="application/json"))
    answer, outcome = await anthropic_engine.complete(make_job(chat("x"), stream=False))
    choice = msgspec.json.decode(answer)["choices"][0]
    assert choice["message"]["reasoning_content"] == "Hm."
    assert choice["message"]["reasoning_details"] == [THOUGHT, HIDDEN]
    assert choice["message"]["content"] == "Hello"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a":1}'
    assert (choice["finish_reason"], outcome.finish_reason) == ("tool_calls", "tool_calls")
    assert msgspec.json.decode(outcome.usage or b"")["prompt_tokens"] == 15


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("a_new_one", "stop"),
    ],
)
async def test_every_reason_to_stop_is_told(
    anthropic_engine: Engine, anthropic_upstream: Upstream, reason: str, expected: str
) -> None:
    sequence = "END" if reason == "stop_sequence" else None
    pieces = events(start(input_tokens=1), *TEXT, *end(reason, sequence, output_tokens=1))
    anthropic_upstream.script(Body(pieces))
    sink, outcome = await stream(anthropic_engine, chat("x"), include_usage=False)
    assert sink.finish_reasons() == {0: expected}
    last = sink.parsed()[-1]["choices"][0]
    assert last["native_finish_reason"] == reason
    assert last.get("stop_reason") == sequence
    assert outcome.finish_reason == expected


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_events_may_be_cut_anywhere(
    anthropic_engine: Engine, anthropic_upstream: Upstream, size: int
) -> None:
    said = delta(0, "text_delta", text="naïve 🎉")
    whole = b"".join(events(start(input_tokens=1), TEXT[0], said, stop(0), *end(output_tokens=2)))
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    anthropic_upstream.script(Body(pieces))
    sink, _ = await stream(anthropic_engine, chat("x"))
    assert sink.text() == "naïve 🎉"


@pytest.mark.parametrize("ending", ["proper", "cut"])
@pytest.mark.parametrize("upto", [1, 3, 5])
async def test_a_stream_without_its_last_event_is_an_error(
    anthropic_engine: Engine, anthropic_upstream: Upstream, ending: str, upto: int
) -> None:
    pieces = events(start(input_tokens=1), *TEXT, *end(output_tokens=1))
    anthropic_upstream.script(Body(pieces[:upto], end=ending))
    sink = Collector()
    with pytest.raises(UpstreamError):
        await anthropic_engine.generate(make_job(chat("x")), sink)
    assert sink.finish_reasons() == {}
    assert bool(sink.chunks) == (upto > 2)  # nothing said: another may still answer


@pytest.mark.parametrize(
    ("kind", "status", "retryable"),
    [
        ("overloaded_error", 502, True),
        ("api_error", 502, True),
        ("rate_limit_error", 429, True),
        ("timeout_error", 504, True),
        ("invalid_request_error", 400, False),
        ("request_too_large", 413, False),
        ("a_new_one", 502, True),
    ],
)
async def test_an_error_in_the_stream_is_told_by_its_type(
    anthropic_engine: Engine, anthropic_upstream: Upstream, kind: str, status: int, retryable: bool
) -> None:
    error = {"type": "error", "error": {"type": kind, "message": "sk-ant-secret-1234567 broke"}}
    anthropic_upstream.script(Body(events(start(input_tokens=1), *TEXT, error)))
    sink = Collector()
    with pytest.raises(UpstreamError) as caught:
        await anthropic_engine.generate(make_job(chat("x")), sink)
    assert (caught.value.http_status, caught.value.retryable) == (status, retryable)
    assert "sk-ant-secret" not in caught.value.message
    assert sink.text() == "Hello"


async def test_an_overloaded_upstream_says_when_to_come_back(
    anthropic_engine: Engine, anthropic_upstream: Upstream
) -> None:
    anthropic_upstream.script(
        Fail(529, headers={"retry-after": "7"}), Fail(429, headers={"retry-after": "3"})
    )
    with pytest.raises(UpstreamError) as caught:
        await stream(anthropic_engine, chat("x"))
    assert (caught.value.retryable, caught.value.retry_after) == (True, 7.0)
    with pytest.raises(UpstreamRateLimited) as limited:
        await stream(anthropic_engine, chat("x"))
    assert limited.value.retry_after == 3.0


@pytest.mark.parametrize(
    "piece",
    [b"data: {\n\n", b"data: []\n\n", b'data: {"type":"message_delta","usage":5}\n\n',
     b'data: {"type":"ping","x":"\xff"}\n\n'],
)  # fmt: skip
async def test_an_event_that_is_none_is_a_fault(
    anthropic_engine: Engine, anthropic_upstream: Upstream, piece: bytes
) -> None:
    anthropic_upstream.script(Body([piece]))
    with pytest.raises(UpstreamError):
        await stream(anthropic_engine, chat("x"))


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"type":"message"}', b'{"content":5}'])
async def test_an_answer_that_is_no_message_is_a_fault(
    anthropic_engine: Engine, anthropic_upstream: Upstream, body: bytes
) -> None:
    anthropic_upstream.script(Body([body], content_type="application/json"))
    with pytest.raises(UpstreamError):
        await anthropic_engine.complete(make_job(chat("x"), stream=False))


async def test_a_cut_connection_is_a_fault(
    anthropic_engine: Engine, anthropic_upstream: Upstream
) -> None:
    anthropic_upstream.script(Cut(after=3))
    sink = Collector()
    with pytest.raises(UpstreamError):
        await anthropic_engine.generate(make_job(chat("x")), sink)
    assert sink.text()


@pytest.mark.parametrize("begun", ["Hello", "Hello \n"])
async def test_a_text_that_was_begun_is_continued_where_that_is_set(
    anthropic_upstream: Upstream, begun: str
) -> None:
    engine = ENGINES["anthropic"](
        AnthropicProvider(
            name="remote",
            kind="anthropic",
            base_url=anthropic_upstream.base_url,
            models=MODELS,
            options=AnthropicOptions(continue_assistant=True),
        )
    )
    assert engine.can_continue
    said = [b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}']
    piece = {"choices": [{"index": 0, "delta": {"content": begun}}]}
    more = [TEXT[0], delta(0, "text_delta", text=" \nworld"), stop(0)]
    anthropic_upstream.script(Body(events(start(input_tokens=1), *more, *end(output_tokens=1))))
    captured = [*said, msgspec.json.encode(piece)]
    sink, _ = await stream(engine, chat("x", max_tokens=10), captured=captured)
    await engine.close()
    assert begun + sink.text() == "Hello \nworld"
    assert "role" not in deltas(sink)[0]
    [call] = anthropic_upstream.calls
    last = call.body["messages"][-1]
    assert last == {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}
    assert call.body["max_tokens"] == 9


async def test_tokens_are_counted_by_every_engine(engine: Engine) -> None:
    whole = await engine.complete(make_job(chat("one two three", max_tokens=3), stream=False))
    used = msgspec.json.decode(whole[1].usage or b"")["prompt_tokens"]
    body, outcome = await engine.complete(
        make_job(chat("one two three"), kind="count", stream=False)
    )
    assert msgspec.json.decode(body) == {"input_tokens": used}
    assert outcome.usage is None


async def test_counting_at_an_openai_upstream_generates_one_token(
    openai_engine: Engine, upstream: Upstream
) -> None:
    body = chat("one", max_tokens=500, stream=True, n=3, stream_options={"include_usage": True})
    await openai_engine.complete(make_job(body, kind="count", stream=False))
    [call] = upstream.calls
    assert call.body["max_tokens"] == 1
    assert not {"stream", "stream_options", "n"} & set(call.body)


async def test_an_openai_upstream_gets_no_extension_of_a_translated_request(
    openai_engine: Engine, upstream: Upstream
) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    tool = {"type": "function", "function": {"name": "f"}, **mark}
    part = {"type": "text", "text": "hi", "tool_call_id": "toolu_1", **mark}
    said = {"role": "assistant", "content": None, "reasoning_details": [THOUGHT]}
    said["tool_calls"] = [{**CALL, **mark}]
    answer = {"role": "tool", "tool_call_id": "toolu_1", "content": "1", "is_error": True, **mark}
    body = turns(user([part]), said, answer, tools=[tool], anthropic={})
    await openai_engine.complete(make_job(body, stream=False))
    [call] = upstream.calls
    text = msgspec.json.encode(call.body)
    for name in (b"cache_control", b"anthropic", b"is_error", b"reasoning_details"):
        assert name not in text
    assert call.body["messages"][0]["content"] == [{"type": "text", "text": "hi"}]
    assert call.body["messages"][2]["tool_call_id"] == "toolu_1"


def test_extensions_of_what_is_no_chat_are_left_to_the_upstream() -> None:
    fields = {"anthropic": msgspec.Raw(b"{}"), "tools": msgspec.Raw(b"[5]")}
    remove_extensions(fields)
    assert {name: bytes(value) for name, value in fields.items()} == {"tools": b"[5]"}


def test_a_request_that_was_not_translated_keeps_its_fields() -> None:
    fields = {"messages": msgspec.Raw(b'[{"content":[{"cache_control":{}}]}]')}
    remove_extensions(fields)
    assert bytes(fields["messages"]) == b'[{"content":[{"cache_control":{}}]}]'
