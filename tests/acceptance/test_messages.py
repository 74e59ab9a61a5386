"""POST /v1/messages, by Anthropic's SDK."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import Message, TextBlock, ThinkingBlock, ToolUseBlock

from cli.launch import LaunchedServer
from tests.acceptance.conftest import CLAUDE, SCRIPTED, SIMULATED
from tests.support.server import http_client
from tests.support.upstream_process import UpstreamProcess

MODELS = [SIMULATED, SCRIPTED, CLAUDE]
PIXEL = "iVBORw0KGgo="
ASK: list[Any] = [{"role": "user", "content": "Say something about the sea."}]
WEATHER: list[Any] = [
    {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "celsius": {"type": "boolean"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }
]


@pytest.fixture
def claude(server: LaunchedServer, api_key: str) -> Iterator[anthropic.Anthropic]:
    """Anthropic's SDK at the first edge."""
    root = server.url.removesuffix("/v1")
    with anthropic.Anthropic(base_url=root, api_key=api_key, max_retries=0, timeout=60) as client:
        yield client


def text_of(message: Message) -> str:
    """A message's text."""
    return "".join(block.text for block in message.content if isinstance(block, TextBlock))


def events_of(response: httpx.Response) -> list[tuple[str, str, Any]]:
    """A stream's events: name, id, data."""
    found = []
    for block in response.read().decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "data" in fields:
            found.append((fields["event"], fields.get("id", ""), json.loads(fields["data"])))
    return found


@pytest.mark.requirement("messages.create")
@pytest.mark.parametrize("model", MODELS)
def test_a_message_is_whole(claude: anthropic.Anthropic, model: str) -> None:
    message = claude.messages.create(model=model, max_tokens=500, messages=ASK)
    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model) == ("message", "assistant", model)
    assert text_of(message)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0
    assert (message._request_id or "").startswith("req_")


@pytest.mark.requirement("messages.stream")
@pytest.mark.parametrize("model", MODELS)
def test_a_stream_adds_up_to_the_whole_message(claude: anthropic.Anthropic, model: str) -> None:
    whole = claude.messages.create(model=model, max_tokens=500, messages=ASK)
    with claude.messages.stream(model=model, max_tokens=500, messages=ASK) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
        assert (stream.request_id or "").startswith("req_")
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert (text_of(final), final.stop_reason) == (text_of(whole), whole.stop_reason)
    assert final.usage.input_tokens == whole.usage.input_tokens
    assert final.usage.output_tokens == whole.usage.output_tokens


@pytest.mark.requirement("messages.tools")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_tools_are_called_and_answered(
    claude: anthropic.Anthropic, model: str, stream: bool
) -> None:
    def ask(messages: Any) -> Message:
        asked: Any = {"model": model, "max_tokens": 500, "messages": messages, "tools": WEATHER}
        if not stream:
            return claude.messages.create(**asked)
        with claude.messages.stream(**asked) as stream_:
            return stream_.get_final_message()

    asked: list[Any] = [{"role": "user", "content": "Please use get_weather."}]
    called = ask(asked)
    assert called.stop_reason == "tool_use"
    [call] = [block for block in called.content if isinstance(block, ToolUseBlock)]
    assert call.name == "get_weather"
    assert isinstance(call.input["city"], str)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "17 degrees"}
    answered = ask([*asked, called.to_param(), {"role": "user", "content": [result]}])
    assert "17 degrees" in text_of(answered)
    assert answered.stop_reason == "end_turn"


@pytest.mark.requirement("messages.tools")
def test_a_choice_of_tools_is_kept(claude: anthropic.Anthropic) -> None:
    def ask(choice: Any) -> Message:
        return claude.messages.create(
            model=SIMULATED, max_tokens=500, messages=ASK, tools=WEATHER, tool_choice=choice
        )

    assert ask({"type": "any"}).stop_reason == "tool_use"
    assert ask({"type": "tool", "name": "get_weather"}).stop_reason == "tool_use"
    assert ask({"type": "none"}).stop_reason == "end_turn"


@pytest.mark.requirement("messages.stop")
@pytest.mark.parametrize("model", MODELS)
def test_limits_and_stop_sequences_end_a_message(claude: anthropic.Anthropic, model: str) -> None:
    short = claude.messages.create(model=model, max_tokens=3, messages=ASK)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)
    whole = text_of(claude.messages.create(model=model, max_tokens=500, messages=ASK))
    stop = whole[10:14]
    stopped = claude.messages.create(
        model=model, max_tokens=500, messages=ASK, stop_sequences=["never said", stop]
    )
    assert text_of(stopped) == whole[: whole.find(stop)]


@pytest.mark.requirement("messages.schema")
@pytest.mark.parametrize("model", MODELS)
def test_an_answer_fits_a_schema(claude: anthropic.Anthropic, model: str) -> None:
    schema: Any = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "size": {"type": "integer"}},
        "required": ["name", "size"],
        "additionalProperties": False,
    }
    message = claude.messages.create(
        model=model,
        max_tokens=500,
        messages=ASK,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    found = json.loads(text_of(message))
    assert isinstance(found["name"], str)
    assert isinstance(found["size"], int)


@pytest.mark.requirement("messages.input")
@pytest.mark.parametrize("model", MODELS)
def test_all_kinds_of_content_are_taken(claude: anthropic.Anthropic, model: str) -> None:
    mark: Any = {"type": "ephemeral"}
    source: Any = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    message = claude.messages.create(
        model=model,
        max_tokens=500,
        system=[{"type": "text", "text": "Be brief.", "cache_control": mark}],
        metadata={"user_id": "u1"},
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": source},
                    {
                        "type": "document",
                        "title": "Notes",
                        "source": {"type": "text", "media_type": "text/plain", "data": "The sea."},
                    },
                    {"type": "text", "text": "What is this?", "cache_control": mark},
                ],
            },
            {"role": "assistant", "content": "A picture."},
            {"role": "user", "content": "Of what?"},
        ],
    )
    assert text_of(message)


@pytest.mark.requirement("messages.input")
def test_what_an_upstream_gets_is_plain_chat(
    claude: anthropic.Anthropic, upstream: UpstreamProcess
) -> None:
    claude.messages.create(
        model=SCRIPTED,
        max_tokens=50,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        thinking={"type": "enabled", "budget_tokens": 5000},
        messages=[{"role": "user", "content": "Plain, please."}],
    )
    body = upstream.call("Plain, please.")["body"]
    assert body["messages"][0]["content"] == [{"type": "text", "text": "Be brief."}]
    assert (body["max_tokens"], body["reasoning_effort"]) == (50, "medium")
    assert "anthropic" not in body


@pytest.mark.requirement("messages.input")
def test_a_messages_upstream_gets_back_what_chat_has_no_word_for(
    claude: anthropic.Anthropic, anthropic_upstream: UpstreamProcess
) -> None:
    mark: Any = {"type": "ephemeral", "ttl": "1h"}
    source: Any = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    called: Any = {"type": "tool_use", "id": "toolu_9", "name": "f", "input": {"city": "x"}}
    thought: Any = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
    result: Any = {
        "type": "tool_result",
        "tool_use_id": "toolu_9",
        "is_error": True,
        "content": [{"type": "text", "text": "broken"}, {"type": "image", "source": source}],
    }
    text: Any = {"type": "text", "text": "Kept as it is.", "cache_control": mark}
    claude.messages.create(
        model=CLAUDE,
        max_tokens=2000,
        thinking={"type": "enabled", "budget_tokens": 1024},
        output_config={"effort": "max"},
        cache_control=mark,
        tools=[{**WEATHER[0], "cache_control": mark}],
        messages=[
            {"role": "user", "content": "Go."},
            {"role": "assistant", "content": [thought, called]},
            {"role": "user", "content": [result, text]},
        ],
    )
    body = anthropic_upstream.call("Kept as it is.")["body"]
    assert body["messages"][1]["content"] == [thought, called]
    assert body["messages"][2]["content"] == [result, text]
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    assert body["output_config"] == {"effort": "max"}
    assert body["cache_control"] == body["tools"][0]["cache_control"] == mark


def script_thoughts(upstream: UpstreamProcess) -> None:
    """Let the upstream think aloud, then call a tool."""
    usage = {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2}
    start = {"id": "msg_up", "type": "message", "role": "assistant", "content": [], "usage": usage}
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
        (
            {"type": "thinking", "thinking": "", "signature": ""},
            [
                {"type": "thinking_delta", "thinking": "Hm, "},
                {"type": "thinking_delta", "thinking": "well."},
                {"type": "signature_delta", "signature": "signed"},
            ],
        ),
        ({"type": "redacted_thinking", "data": "hidden"}, []),
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "Let me see."}]),
        (
            {"type": "tool_use", "id": "toolu_up", "name": "get_weather", "input": {}},
            [
                {"type": "input_json_delta", "partial_json": '{"city"'},
                {"type": "input_json_delta", "partial_json": ':"Rome"}'},
            ],
        ),
    ]
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, (block, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [
            {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
        ]
        events.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": "tool_use", "stop_sequence": None}
    events.append({"type": "message_delta", "delta": ended, "usage": {"output_tokens": 7}})
    events.append({"type": "message_stop"})
    # The script's pieces travel in base64, as msgspec has bytes in JSON.
    data = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events)
    upstream.script({"kind": "body", "pieces": [base64.b64encode(data.encode()).decode()]})


@pytest.mark.requirement("messages.thinking")
def test_thoughts_of_a_messages_upstream_come_through(
    claude: anthropic.Anthropic, http: httpx.Client, anthropic_upstream: UpstreamProcess
) -> None:
    script_thoughts(anthropic_upstream)
    with claude.messages.stream(
        model=CLAUDE, max_tokens=500, messages=ASK, tools=WEATHER
    ) as stream:
        message = stream.get_final_message()
    kinds = [block.type for block in message.content]
    assert kinds == ["thinking", "redacted_thinking", "text", "tool_use"]
    thought, hidden, _, call = message.content
    assert isinstance(thought, ThinkingBlock)
    assert (thought.thinking, thought.signature) == ("Hm, well.", "signed")
    assert hidden.data == "hidden"  # type: ignore[union-attr]
    assert isinstance(call, ToolUseBlock)
    assert (call.id, call.input) == ("toolu_up", {"city": "Rome"})
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens) == (10, 7)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (5, 2)

    script_thoughts(anthropic_upstream)
    body = {"model": CLAUDE, "stream": True, "messages": ASK}
    said = http.post("/v1/chat/completions", json=body).text
    assert '"reasoning_content":"Hm, "' in said
    assert '"signature":"signed"' in said


@pytest.mark.requirement("messages.count")
@pytest.mark.parametrize("model", MODELS)
def test_tokens_are_counted(claude: anthropic.Anthropic, model: str) -> None:
    asked: Any = {"model": model, "system": "Be brief.", "messages": ASK, "tools": WEATHER}
    counted = claude.messages.count_tokens(**asked)
    message = claude.messages.create(max_tokens=1, **asked)
    assert counted.input_tokens == message.usage.input_tokens > 0


@pytest.mark.requirement("messages.errors")
@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"model": "no-such-model"}, anthropic.NotFoundError, "no-such-model"),
        ({"messages": []}, anthropic.BadRequestError, "messages"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            anthropic.BadRequestError,
            "tools[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "container_upload"}]}]},
            anthropic.BadRequestError,
            "messages[0].content[0].type",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "document",
                                "source": {
                                    "type": "base64",
                                    "media_type": "application/zip",
                                    "data": "x",
                                },
                            }
                        ],
                    }
                ]
            },
            anthropic.BadRequestError,
            "messages[0].content[0].source.media_type",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_request_raises_the_sdks_error(
    claude: anthropic.Anthropic,
    change: dict[str, Any],
    error: type[anthropic.APIStatusError],
    named: str,
    stream: bool,
) -> None:
    asked: Any = {"model": SIMULATED, "max_tokens": 50, "messages": ASK, "stream": stream}
    with pytest.raises(error) as caught:
        claude.messages.create(**{**asked, **change})
    assert named in caught.value.message
    assert caught.value.type in ("invalid_request_error", "not_found_error")
    assert (caught.value.request_id or "").startswith("req_")
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["request_id"] == caught.value.request_id


@pytest.mark.requirement("messages.errors")
def test_a_wrong_key_is_an_authentication_error(server: LaunchedServer) -> None:
    root = server.url.removesuffix("/v1")
    with (
        anthropic.Anthropic(base_url=root, api_key="sk_live_wrong", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        client.messages.create(model=SIMULATED, max_tokens=5, messages=ASK)
    assert caught.value.type == "authentication_error"


@pytest.mark.requirement("messages.errors")
@pytest.mark.parametrize("model", [SCRIPTED, CLAUDE])
@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (400, anthropic.BadRequestError, "invalid_request_error"),
    ],
)
def test_an_upstreams_failure_raises_the_sdks_error(
    claude: anthropic.Anthropic, model: str, status: int, error: Any, kind: str
) -> None:
    asked: list[Any] = [{"role": "user", "content": f"!fail {status}"}]
    for stream in (True, False):
        with pytest.raises(error) as caught:
            claude.messages.create(model=model, max_tokens=5, messages=asked, stream=stream)  # type: ignore[call-overload]
        assert caught.value.type == kind


@pytest.mark.requirement("messages.errors")
def test_routes_and_methods_that_are_not_there_are_told_in_the_same_envelope(
    http: httpx.Client,
) -> None:
    for response in (http.get("/v1/messages"), http.post("/v1/messages/batches", json={})):
        assert response.status_code in (404, 405)
        assert response.json()["type"] == "error"
        assert response.headers["request-id"] == response.headers["x-request-id"]


@pytest.mark.requirement("messages.errors.stream")
@pytest.mark.parametrize("model", [SCRIPTED, CLAUDE])
def test_a_failure_in_the_middle_is_an_error_event(claude: anthropic.Anthropic, model: str) -> None:
    asked: list[Any] = [{"role": "user", "content": "Begin.\n!fail 500 4"}]
    said: list[str] = []
    with (
        claude.messages.stream(model=model, max_tokens=50, messages=asked) as stream,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        said.extend(stream.text_stream)
    assert said
    assert caught.value.type == "api_error"


@pytest.mark.requirement("messages.resume")
def test_a_stream_is_read_on_from_any_event(
    server: LaunchedServer, api_key: str, http: httpx.Client
) -> None:
    body = {
        "model": SIMULATED,
        "max_tokens": 30,
        "stream": True,
        "messages": [{"role": "user", "content": "Please use get_weather."}],
        "tools": WEATHER,
    }
    with http.stream("POST", "/v1/messages", json=body) as response:
        whole = events_of(response)
        run_id = response.headers["x-run-id"]
    assert len({number for _, number, _ in whole}) == len(whole)
    path = f"/v1/messages/{run_id.replace('run_', 'msg_')}/stream"
    with http_client(server.edges[-1], api_key) as other:
        for at, (_, number, _) in enumerate(whole):
            with other.stream("GET", path, headers={"Last-Event-ID": number}) as response:
                assert response.status_code == 200
                assert events_of(response) == whole[at + 1 :]
        with other.stream("GET", path) as response:
            assert events_of(response) == whole
        assert other.get(path, params={"starting_after": "x"}).status_code == 400


@pytest.mark.requirement("messages.resume")
def test_a_stream_that_was_cut_is_read_on(claude: anthropic.Anthropic, http: httpx.Client) -> None:
    asked: list[Any] = [{"role": "user", "content": "Tell me of the harbour."}]
    headers = {"Idempotency-Key": "messages-cut"}
    body = {"model": SCRIPTED, "max_tokens": 500, "messages": asked, "stream": True}
    got: list[str] = []
    with http.stream("POST", "/v1/messages", json=body, headers=headers) as response:
        run_id = response.headers["x-run-id"]
        for line in response.iter_lines():
            got.append(line)
            if line.startswith("data: ") and len(got) > 40:
                break
    last = [line.removeprefix("id: ") for line in got if line.startswith("id: ")][-1]
    path = f"/v1/messages/{run_id.replace('run_', 'msg_')}/stream"
    with http.stream("GET", path, headers={"Last-Event-ID": last}) as response:
        rest = [data for _, _, data in events_of(response)]
    before = [json.loads(line[6:]) for line in got if line.startswith("data: ")]
    text = "".join(
        event["delta"]["text"]
        for event in [*before, *rest]
        if event["type"] == "content_block_delta"
    )
    whole = claude.messages.create(model=SCRIPTED, max_tokens=500, messages=asked)
    assert text == text_of(whole)
    assert rest[-1]["type"] == "message_stop"


@pytest.mark.requirement("messages.resume")
def test_a_message_that_was_not_streamed_is_read_again_whole(http: httpx.Client) -> None:
    body = {"model": SIMULATED, "max_tokens": 50, "messages": ASK}
    first = http.post("/v1/messages", json=body)
    again = http.get(f"/v1/messages/{first.json()['id']}/stream")
    assert again.status_code == 200
    assert again.json() == first.json()


@pytest.mark.requirement("messages.cancel")
def test_a_message_is_cancelled(http: httpx.Client, upstream: UpstreamProcess) -> None:
    body = {
        "model": SCRIPTED,
        "max_tokens": 5000,
        "stream": True,
        "messages": [{"role": "user", "content": "Cancel this message.\n!tokens 5000"}],
    }
    with http.stream("POST", "/v1/messages", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        message = response.headers["x-run-id"].replace("run_", "msg_")
        told = http.post(f"/v1/messages/{message}/cancel")
        assert told.status_code == 200
        assert told.json() == {"id": message, "type": "message", "status": "cancelled"}
        assert "event: error" in list(lines)
    assert upstream.closed_call("Cancel this message.")["closed_at"]
    assert http.post("/v1/messages/msg_unknown/cancel").json()["error"]["type"] == "not_found_error"


@pytest.mark.requirement("messages.idempotency")
@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_is_the_same_message(http: httpx.Client, stream: bool) -> None:
    headers = {"Idempotency-Key": f"messages-{stream}"}
    body = {"model": SIMULATED, "max_tokens": 50, "messages": ASK, "stream": stream}
    first = http.post("/v1/messages", json=body, headers=headers)
    second = http.post("/v1/messages", json=body, headers=headers)
    assert first.status_code == 200
    assert first.text == second.text
    assert first.headers["x-run-id"] == second.headers["x-run-id"]
    other = http.post("/v1/messages", json={**body, "max_tokens": 51}, headers=headers)
    assert other.status_code == 409
    assert other.json()["error"]["details"] == {"error_code": "idempotency_conflict"}
