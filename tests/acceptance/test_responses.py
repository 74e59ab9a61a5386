"""/v1/responses with the real SDK: created, streamed, parsed, gone on with, in the background."""

import json
import shutil
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel

from cli.launch import LaunchedServer
from tests.acceptance.conftest import SCRIPTED, SIMULATED, SLASHED
from tests.support.server import http_client, openai_client, running_server
from tests.support.upstream_process import UpstreamProcess

CUED = """
providers:
  - name: cued
    kind: simulated
    options: {seed: 1, ttft_ms: 1, token_ms: 1, cues: true}
    models:
      - {id: cued, capabilities: [chat, tools]}
"""
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
REQUIRED = [
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "incomplete_details",
    "model",
    "previous_response_id",
    "instructions",
    "output",
    "error",
    "tools",
    "tool_choice",
    "truncation",
    "parallel_tool_calls",
    "text",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "temperature",
    "reasoning",
    "usage",
    "max_output_tokens",
    "max_tool_calls",
    "store",
    "background",
    "service_tier",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
]


def numbers_of(events: list[ResponseStreamEvent]) -> list[int]:
    return [event.sequence_number for event in events]


@pytest.mark.requirement("responses.create")
def test_a_response_is_created_whole(client: openai.OpenAI) -> None:
    response = client.responses.create(model=SIMULATED, input="Say something.", metadata={"a": "b"})
    assert response.status == "completed"
    assert response.output_text
    assert response.id.startswith("resp_")
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.metadata == {"a": "b"}


@pytest.mark.requirement("responses.object")
def test_the_object_has_all_fields_of_both_specifications(http: httpx.Client) -> None:
    asked = {"model": SIMULATED, "input": "Say something."}
    body = http.post("/v1/responses", json=asked).raise_for_status().json()
    assert not [name for name in REQUIRED if name not in body]
    assert body["temperature"] == 1.0
    assert body["truncation"] == "disabled"
    assert body["text"]["format"] == {"type": "text"}


@pytest.mark.requirement("responses.stream")
def test_a_streams_events_are_typed_in_order_and_numbered(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model=SIMULATED, input="Go on.", stream=True))
    assert numbers_of(events) == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    last = events[-1]
    assert last.type == "response.completed"
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert last.response.output_text == said


@pytest.mark.requirement("responses.parse")
@pytest.mark.parametrize("model", [SIMULATED, SLASHED])
def test_an_answer_is_parsed_by_its_schema(client: openai.OpenAI, model: str) -> None:
    class Answer(BaseModel):
        city: str
        degrees: int

    if model == SLASHED:  # it can't be held to a schema, and the simulated one never obeys words
        refused = client.responses.create(
            model=model,
            input="Say something.",
            text={
                "format": {
                    "type": "json_schema",
                    "name": "answer",
                    "schema": Answer.model_json_schema(),
                }
            },
        )
        assert refused.status == "completed"
        assert len(refused.output) == 1
        return
    parsed = client.responses.parse(model=model, input="How warm is it?", text_format=Answer)
    assert isinstance(parsed.output_parsed, Answer)


@pytest.mark.requirement("responses.functions")
def test_a_function_is_called_and_its_output_gone_on_with(client: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": "Ask get_weather."}]
    first = client.responses.create(model=SIMULATED, input=asked, tools=[WEATHER])
    (call,) = first.output
    assert call.type == "function_call"
    assert call.name == "get_weather"
    answered: Any = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": "nine degrees",
    }
    second = client.responses.create(
        model=SIMULATED, input=[*asked, call.model_dump(), answered], tools=[WEATHER]
    )
    assert "nine degrees" in second.output_text


@pytest.mark.requirement("responses.functions.images")
def test_a_functions_output_has_images_for_a_model_that_sees(
    client: openai.OpenAI, upstream: UpstreamProcess
) -> None:
    picture = "data:image/png;base64,iVBORw0KGgo="
    call = {"type": "function_call", "call_id": "call_1", "name": "draw", "arguments": "{}"}
    text = {"type": "input_text", "text": "A map."}
    shown = [text, {"type": "input_image", "image_url": picture}]
    said: Any = [
        {"role": "user", "content": "Draw a map."},
        call,
        {"type": "function_call_output", "call_id": "call_1", "output": shown},
    ]
    assert client.responses.create(model=SCRIPTED, input=said).status == "completed"
    told = upstream.call("output of the call call_1")["body"]["messages"]
    assert [message["role"] for message in told] == ["user", "assistant", "tool", "user"]
    assert told[2]["content"].startswith("A map.")
    assert told[3]["content"][1] == {"type": "image_url", "image_url": {"url": picture}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=SLASHED, input=said)
    assert refused.value.param == "input[2].output[1]"
    shown[1] = {"type": "input_image", "file_id": "file_1"}
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=SCRIPTED, input=said)
    assert refused.value.param == "input[2].output[1].image_url"


@pytest.mark.requirement("responses.functions.stream")
def test_a_calls_arguments_are_streamed(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model=SIMULATED, input="Ask get_weather.", tools=[WEATHER]
    ) as stream:
        events = list(stream)
        final = stream.get_final_response()
    deltas = [
        event.delta for event in events if event.type == "response.function_call_arguments.delta"
    ]
    (call,) = final.output
    assert call.type == "function_call"
    assert "".join(deltas) == call.arguments


@pytest.mark.requirement("responses.tool_choice")
@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "get_weather"},
        {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "get_weather"}],
        },
    ],
)
def test_a_tool_that_must_be_called_is(client: openai.OpenAI, choice: Any) -> None:
    other = {**WEATHER, "name": "another"}
    tools = [WEATHER] if choice == "required" else [WEATHER, other]
    response = client.responses.create(
        model=SIMULATED, input="Hello.", tools=tools, tool_choice=choice
    )
    assert [getattr(item, "name", None) for item in response.output] == ["get_weather"]
    assert response.tool_choice is not None


@pytest.mark.requirement("responses.tool_choice")
def test_no_tool_is_called_if_none_may(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=SIMULATED, input="Ask get_weather.", tools=[WEATHER], tool_choice="none"
    )
    assert [item.type for item in response.output] == ["message"]


@pytest.mark.requirement("responses.background.stream")
def test_a_background_stream_is_read_on_from_every_number_at_any_edge(
    server: LaunchedServer, client: openai.OpenAI, api_key: str
) -> None:
    whole = list(
        client.responses.create(model=SIMULATED, input="Go on.", background=True, stream=True)
    )
    assert [event.type for event in whole[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    first = whole[0]
    assert first.type == "response.created"
    other = openai_client(server.edges[1], api_key)
    for after in range(0, len(whole), 5):
        rest = list(other.responses.retrieve(first.response.id, stream=True, starting_after=after))
        assert rest == whole[after + 1 :]


@pytest.mark.requirement("responses.stream.whole")
def test_a_stream_that_is_left_can_be_read_to_its_end_elsewhere(
    server: LaunchedServer, client: openai.OpenAI, api_key: str
) -> None:
    events = []
    with client.responses.create(model=SCRIPTED, input="Go on.", stream=True) as stream:
        for event in stream:
            events.append(event)
            if len(events) == 6:
                break
    created = events[0]
    assert created.type == "response.created"
    other = openai_client(server.edges[1], api_key)
    rest = other.responses.retrieve(
        created.response.id, stream=True, starting_after=events[-1].sequence_number
    )
    events += list(rest)
    assert numbers_of(events) == list(range(len(events)))
    assert events[-1].type == "response.completed"


def searching(filters: Any) -> dict[str, Any]:
    tool = {"type": "file_search", "vector_store_ids": [], "filters": filters}
    return {"model": SIMULATED, "input": "x", "tools": [tool]}


def choosing(choice: dict[str, Any]) -> dict[str, Any]:
    return {"model": SIMULATED, "input": "x", "tools": [WEATHER], "tool_choice": choice}


@pytest.mark.requirement("responses.errors")
@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("model", {"input": "x"}),
        ("input", {"model": SIMULATED}),
        ("max_output_tokens", {"model": SIMULATED, "input": "x", "max_output_tokens": 1}),
        ("background", {"model": SIMULATED, "input": "x", "background": True, "store": False}),
        ("tools[0].type", {"model": SIMULATED, "input": "x", "tools": [{"type": "computer"}]}),
        (
            "tools[0].name",
            {"model": SIMULATED, "input": "x", "tools": [{"type": "function", "name": "a b"}]},
        ),
        ("tool_choice.type", {"model": SIMULATED, "input": "x", "tool_choice": {"type": "no"}}),
        ("tool_choice", {"model": SIMULATED, "input": "x", "tool_choice": "required"}),
        ("tool_choice", choosing({"type": "function", "name": "get_whether"})),
        ("tool_choice", choosing({"type": "file_search"})),
        ("tool_choice", choosing({"type": "mcp", "server_label": "sums"})),
        (
            "tool_choice",
            choosing(
                {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [
                        {"type": "function", "name": "get_weather"},
                        {"type": "function", "name": "get_whether"},
                    ],
                }
            ),
        ),
        ("moderation", {"model": SIMULATED, "input": "x", "moderation": {"model": "m"}}),
        (
            "context_management",
            {"model": SIMULATED, "input": "x", "context_management": [{"type": "compaction"}]},
        ),
        (
            "input[1].type",
            {"model": SIMULATED, "input": [{"role": "user", "content": "x"}, {"type": "no"}]},
        ),
        ("tools[0].filters.type", searching({"type": "like", "key": "a", "value": "b"})),
        ("tools[0].filters.value", searching({"type": "eq", "key": "a"})),
        ("tools[0].filters.value", searching({"type": "in", "key": "a", "value": "b"})),
        (
            "tools[0].filters.filters[0].key",
            searching({"type": "and", "filters": [{"type": "eq", "value": 1}]}),
        ),
        ("include[0]", {"model": SIMULATED, "input": "x", "include": ["everything"]}),
        (
            "metadata",
            {"model": SIMULATED, "input": "x", "metadata": {str(n): "" for n in range(17)}},
        ),
        (
            "previous_response_id",
            {
                "model": SIMULATED,
                "input": "x",
                "previous_response_id": "resp_1",
                "conversation": "conv_1",
            },
        ),
    ],
)
def test_what_is_wrong_is_named(http: httpx.Client, field: str, body: dict[str, Any]) -> None:
    answer = http.post("/v1/responses", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


@pytest.mark.requirement("responses.errors")
def test_a_model_that_refuses_is_a_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nobody", input="x")


@pytest.mark.requirement("responses.input_tokens")
def test_an_inputs_tokens_are_counted(client: openai.OpenAI) -> None:
    short = client.responses.input_tokens.count(model=SIMULATED, input="one")
    long = client.responses.input_tokens.count(
        model=SIMULATED, input="one two three four", tools=[WEATHER]
    )
    assert short.object == "response.input_tokens"
    assert 0 < short.input_tokens < long.input_tokens


@pytest.mark.requirement("responses.compact")
def test_a_compaction_goes_on_as_an_input(client: openai.OpenAI) -> None:
    said: Any = [
        {"role": "user", "content": "Remember seven."},
        {"role": "assistant", "content": "I do."},
    ]
    compacted = client.responses.compact(model=SIMULATED, input=said)
    assert [item.type for item in compacted.output] == ["message", "compaction"]
    again: Any = [*[item.model_dump() for item in compacted.output], said[0]]
    assert client.responses.create(model=SIMULATED, input=again).status == "completed"
    again[1]["encrypted_content"] = "sealed:nothing"
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=SIMULATED, input=again)
    assert refused.value.param == "input[1].encrypted_content"


@pytest.mark.requirement("responses.code_interpreter")
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="code runs in a sandbox only")
def test_a_file_that_code_makes_is_its_owners(
    server: LaunchedServer, client: openai.OpenAI
) -> None:
    """The simulated model writes no code of its own: what it calls the tool with is made up."""
    code = "open('plot.png', 'wb').write(b'\\x89PNG'); print('made plot.png')"
    arguments = json.dumps({"code": code})
    with running_server(*cued(server), env={}) as cues:
        key = cues.create_key()
        with openai_client(cues.url, key) as asking:
            response = asking.responses.create(
                model="cued",
                input=f"!tool code_interpreter {arguments}",
                tools=[{"type": "code_interpreter", "container": {"type": "auto"}}],
                include=["code_interpreter_call.outputs"],
            )
            call, message = response.output
            assert call.type == "code_interpreter_call"
            assert call.code == code
            assert call.outputs is not None
            logs, image = call.outputs
            assert logs.type == "logs"
            assert "made plot.png" in logs.logs
            assert image.type == "image"
            path = image.url
            assert message.type == "message"
            cited = message.content[0].annotations[0]
            assert cited.type == "container_file_citation"
            assert cited.filename == "plot.png"
            assert cited.container_id == call.container_id
        with http_client(cues.url, key) as owner, http_client(cues.url, cues.create_key()) as other:
            assert owner.get(path).raise_for_status().content == b"\x89PNG"
            assert other.get(path).status_code == 404


def cued(server: LaunchedServer) -> tuple[str, ...]:
    """Options for a server of its own, whose model obeys cues."""
    file = server.data.parent / "cued.yaml"
    file.write_text(CUED)
    return ("--providers", str(file))


@pytest.mark.requirement("responses.errors")
@pytest.mark.parametrize(
    ("field", "item"),
    [
        ("input[0].call_id", {"type": "function_call_output", "call_id": "none", "output": "x"}),
        ("input[0].id", {"type": "item_reference", "id": ""}),
        (
            "input[0].approval_request_id",
            {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
        ),
        (
            "input[0].content[0].image_url",
            {"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]},
        ),
        (
            "input[0].content[0].file_data",
            {"role": "user", "content": [{"type": "input_file", "file_url": "https://a.example"}]},
        ),
        ("input[0].input", {"type": "custom_tool_call", "call_id": "a", "name": "f"}),
    ],
)
def test_items_that_lead_nowhere_are_refused(
    http: httpx.Client, field: str, item: dict[str, Any]
) -> None:
    answer = http.post("/v1/responses", json={"model": SIMULATED, "input": [item]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


@pytest.mark.requirement("responses.errors")
def test_nothing_to_answer_and_too_much_to_repeat_are_refused(http: httpx.Client) -> None:
    empty = http.post("/v1/responses", json={"model": SIMULATED, "input": []})
    assert (empty.status_code, empty.json()["error"]["param"]) == (400, "input")
    asked = {"model": SIMULATED, "input": "x", "instructions": "y" * (2 << 20), "store": False}
    large = http.post("/v1/responses", json=asked)
    assert (large.status_code, large.json()["error"]["param"]) == (400, "instructions")


@pytest.mark.requirement("responses.approval")
def test_a_client_that_keeps_its_own_history_approves_a_call_once(client: openai.OpenAI) -> None:
    more: Any = {
        "model": SIMULATED,
        "tools": [{"type": "mcp", "server_label": "jan", "require_approval": "always"}],
        "store": False,
    }
    said: list[Any] = [
        {"role": "user", "content": "Look it up."},
        {
            "type": "mcp_approval_request",
            "id": "mcpr_1",
            "server_label": "jan",
            "name": "file_search_query",
            "arguments": '{"query": "tides"}',
        },
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
    ]
    call, *rest = client.responses.create(input=said, **more).output
    assert call.type == "mcp_call"
    assert call.approval_request_id == "mcpr_1"
    said += [item.model_dump(exclude_none=True) for item in (call, *rest)]
    said.append({"role": "user", "content": "And now?"})
    again = client.responses.create(input=said, **more).output
    assert "mcp_call" not in [item.type for item in again]
