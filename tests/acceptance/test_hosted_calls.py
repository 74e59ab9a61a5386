"""What a model is told, later on, of the calls that this server answered; with the real SDK."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from cli.launch import LaunchedServer
from tests.acceptance.test_replay import report
from tests.acceptance.test_responses_socket import ask, opened, read
from tests.support.mcp_server import running_mcp
from tests.support.server import openai_client, running_server
from tests.support.upstream_process import UpstreamProcess

PROVIDERS: Final = """
providers:
  - name: scripted
    kind: openai
    base_url: UPSTREAM
    models:
      - {id: caller, served_name: test-model, capabilities: [chat, tools]}
      - {id: plain, served_name: test-model, capabilities: [chat]}
  - name: anthropic
    kind: anthropic
    base_url: MESSAGES
    api_key: sk-ant-1
    models:
      - {id: claude, capabilities: [chat, tools]}
"""
Respond = Callable[..., Any]
Message = dict[str, Any]


@pytest.fixture(scope="module")
def mcp_url() -> Iterator[str]:
    with running_mcp() as url:
        yield url


@pytest.fixture(scope="module")
def calling(
    tmp_path_factory: pytest.TempPathFactory,
    upstream: UpstreamProcess,
    anthropic_upstream: UpstreamProcess,
) -> Iterator[LaunchedServer]:
    """A server whose search makes its results up, and which may ask MCP servers in here."""
    file: Path = tmp_path_factory.mktemp("providers") / "providers.yaml"
    text = PROVIDERS.replace("UPSTREAM", upstream.base_url)
    file.write_text(text.replace("MESSAGES", anthropic_upstream.base_url))
    env = {"JAN_SEARCH_STUB": "true", "JAN_OUTBOUND_ALLOW": "127.0.0.1"}
    with running_server("--providers", str(file), env=env) as server:
        yield server


@pytest.fixture(scope="module")
def asking(calling: LaunchedServer) -> Iterator[openai.OpenAI]:
    with openai_client(calling.url, calling.create_key()) as client:
        yield client


@pytest.fixture
def respond(asking: openai.OpenAI, mcp_url: str) -> Respond:
    """Ask with an MCP server, a search and, where there is a sandbox, a code interpreter."""
    server = {"type": "mcp", "server_label": "sums", "server_url": mcp_url}
    tools: list[Any] = [server | {"require_approval": "never"}, {"type": "web_search"}]
    if shutil.which("bwrap"):
        tools.append({"type": "code_interpreter", "container": {"type": "auto"}})

    def respond(text: Any, **more: Any) -> Any:
        return asking.responses.create(**{"model": "caller", "input": text, "tools": tools, **more})

    return respond


def cues(mark: str) -> tuple[str, int]:
    """What makes the model call all of its tools in one step, and how many calls that are."""
    lines = [mark, '!tool add {"a": 19, "b": 23}', f'!tool web_search {{"q": "{mark}"}}']
    if shutil.which("bwrap"):
        code = json.dumps({"code": f"print('ran', '{mark}')"})
        lines.append(f"!tool code_interpreter {code}")
    return "\n".join(lines), len(lines) - 1


def told(upstream: UpstreamProcess, text: str) -> list[Message]:
    messages: list[Message] = upstream.call(text)["body"]["messages"]
    return messages


def shown(upstream: UpstreamProcess, mark: str) -> list[Message]:
    """What the loop itself told of the calls: the request of the step after them."""
    calls = [
        call for call in upstream.calls(mark) if call["body"]["messages"][-1]["role"] == "tool"
    ]
    messages: list[Message] = calls[0]["body"]["messages"]
    return messages


@pytest.mark.requirement("responses.hosted.context")
@pytest.mark.parametrize("way", ["previous", "conversation"])
def test_the_next_response_is_told_what_tools_said_as_the_loop_was(
    asking: openai.OpenAI, respond: Respond, upstream: UpstreamProcess, way: str
) -> None:
    mark = f"parallel-{way}"
    text, count = cues(mark)
    more: dict[str, Any] = {}
    if way == "conversation":
        more["conversation"] = asking.conversations.create().id
    first = respond(text, **more)
    if way == "previous":
        more["previous_response_id"] = first.id
    respond(f"And now, {mark}?", **more)
    loop, later = shown(upstream, mark), told(upstream, f"And now, {mark}?")
    assert [message["role"] for message in later] == [
        *["user", "assistant"],
        *["tool"] * count,
        *["assistant", "user"],
    ]
    assert "42" in later[2]["content"]
    answers = {message["tool_call_id"]: message["content"] for message in loop[2:]}
    said = [answers[call["id"]] for call in loop[1]["tool_calls"]]
    assert [message["content"] for message in later[2 : 2 + count]] == said
    names = [[call["function"]["name"] for call in each[1]["tool_calls"]] for each in (loop, later)]
    assert names[0] == names[1]


@pytest.mark.requirement("responses.hosted.context")
def test_clients_see_only_what_they_asked_to_be_included(
    asking: openai.OpenAI, respond: Respond
) -> None:
    text, _ = cues("shown")
    conversation = asking.conversations.create().id
    first = respond(text, conversation=conversation)
    stored = asking.responses.retrieve(first.id)
    listed = asking.conversations.items.list(conversation).data
    for item in [*first.output, *stored.output, *listed]:
        assert not hasattr(item, "told")
        if item.type == "code_interpreter_call":
            assert item.outputs is None


@pytest.mark.requirement("responses.hosted.context")
def test_items_that_a_client_sends_back_say_what_they_show(
    respond: Respond, upstream: UpstreamProcess
) -> None:
    text, _ = cues("kept")
    include = ["code_interpreter_call.outputs"]
    first = respond(text, store=False, include=include)
    output = [item.model_dump(exclude_none=True) for item in first.output]
    said = [{"role": "user", "content": text}, *output, {"role": "user", "content": "Kept since?"}]
    respond(said, store=False)
    messages = told(upstream, "Kept since?")
    called = [call["function"]["name"] for call in messages[1]["tool_calls"]]
    assert called == ["add", *["code_interpreter"] * bool(shutil.which("bwrap"))]
    answers = [message["content"] for message in messages if message["role"] == "tool"]
    assert answers[0] == "42"
    assert all("ran kept" in answer for answer in answers[1:])


@pytest.mark.requirement("responses.hosted.context")
def test_calls_of_different_steps_stay_apart_and_a_failure_is_told(
    respond: Respond, upstream: UpstreamProcess
) -> None:
    first = respond("In steps.\n!tool fail {}\n!rounds 2")
    first.output = [item for item in first.output if item.type == "mcp_call"]
    assert [item.status for item in first.output] == ["failed"] * 2
    second = respond("After the steps?", previous_response_id=first.id)
    messages = told(upstream, "After the steps?")
    pair = ["assistant", "tool"]
    assert [one["role"] for one in messages] == ["user", *pair, *pair, "assistant", "user"]
    error = first.output[0].error
    assert error.type == "mcp_tool_execution_error"
    assert messages[2]["content"] == error.content[0]["text"] == "Error executing tool fail"
    respond("Longer after?", previous_response_id=second.id)
    assert told(upstream, "Longer after?")[: len(messages)] == messages


@pytest.mark.requirement("responses.hosted.context")
def test_a_model_without_tools_reads_in_words_what_was_called(
    asking: openai.OpenAI, respond: Respond, upstream: UpstreamProcess
) -> None:
    first = respond('Add.\n!tool add {"a": 19, "b": 23}')
    asking.responses.create(model="plain", input="Plainly?", previous_response_id=first.id)
    body = upstream.call("Plainly?")["body"]
    assert "tools" not in body
    assert [message["role"] for message in body["messages"]] == [
        *["user", "assistant", "user", "assistant", "user"]
    ]
    assert not any("tool_calls" in message for message in body["messages"])
    assert 'add: {"a": 19, "b": 23}' in body["messages"][1]["content"]
    assert "42" in body["messages"][2]["content"]


@pytest.mark.requirement("responses.hosted.context")
def test_anthropics_models_are_told_the_tools_that_were_called(
    asking: openai.OpenAI, respond: Respond, anthropic_upstream: UpstreamProcess
) -> None:
    first = respond('Add.\n!tool add {"a": 19, "b": 23}')
    asking.responses.create(model="claude", input="Claude?", previous_response_id=first.id)
    body = anthropic_upstream.call("Claude?")["body"]
    assert [tool["name"] for tool in body["tools"]] == ["add"]
    assert body["tool_choice"] == {"type": "none"}
    use, result = body["messages"][1]["content"][0], body["messages"][2]["content"][0]
    assert (use["type"], use["input"]) == ("tool_use", {"a": 19, "b": 23})
    assert result["tool_use_id"] == use["id"]
    assert result["content"] == [{"type": "text", "text": "42"}]


@pytest.mark.requirement("responses.hosted.context")
def test_a_count_and_a_compaction_have_what_tools_said(
    asking: openai.OpenAI, respond: Respond, upstream: UpstreamProcess
) -> None:
    text, _ = cues("summed")
    first = respond(text)
    counts = [
        asking.responses.input_tokens.count(model="caller", **more).input_tokens
        for more in ({"input": text}, {"previous_response_id": first.id, "input": "So?"})
    ]
    assert counts[1] > 2 * counts[0]
    asking.responses.compact(model="caller", previous_response_id=first.id)
    asked = told(upstream, "Write down what this conversation has come to")
    assert "42" in [message["content"] for message in asked if message["role"] == "tool"]


@pytest.mark.requirement("responses.hosted.context")
@pytest.mark.parametrize("include", [[], ["file_search_call.results"]])
def test_what_a_file_search_has_found_is_told_whole(
    respond: Respond, upstream: UpstreamProcess, include: list[str]
) -> None:
    text = "A tide table. " + "High water at noon. " * 40
    kept = json.dumps({"document_id": "tides", "text": text, "metadata": {"year": 1950}})
    own: Any = {"type": "mcp", "server_label": "jan", "allowed_tools": ["file_search_index"]}
    respond(f"!tool file_search_index {kept}", tools=[own])
    tool = {"type": "file_search", "vector_store_ids": []}
    found = {"filters": {"type": "eq", "key": "year", "value": 1950}}
    asked = '!tool file_search {"query": "water"}'
    first = respond(asked, tools=[tool | found], include=include)
    results = first.output[0].results
    assert [one.attributes for one in results or ()] == [{"year": 1950}] * bool(include)
    mark = f"Which tide, {len(include)}?"
    respond(mark, previous_response_id=first.id, tools=[])
    answer = told(upstream, mark)[2]
    assert answer["role"] == "tool"
    assert text.strip() in answer["content"]


@pytest.mark.requirement("responses.hosted.context")
@pytest.mark.parametrize("store", [True, False])
def test_a_chain_on_one_socket_is_told_what_tools_said(
    calling: LaunchedServer, upstream: UpstreamProcess, store: bool
) -> None:
    search = {"model": "caller", "tools": [{"type": "web_search"}], "store": store}
    mark = f"By socket, {store}?"
    with opened(calling, calling.create_key()) as socket:
        ask(socket, input='!tool web_search {"q": "sockets"}', **search)
        first = read(socket)[-1]["response"]
        ask(socket, input=mark, previous_response_id=first["id"], **search)
        assert read(socket)[-1]["type"] == "response.completed"
    messages = told(upstream, mark)
    assert [one["role"] for one in messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert "Made-up result 1 for sockets" in messages[2]["content"]


@pytest.mark.requirement("responses.hosted.context")
def test_a_replay_is_told_the_same(
    calling: LaunchedServer, respond: Respond, upstream: UpstreamProcess
) -> None:
    text, _ = cues("replayed")
    first = respond(text)
    second = respond("Replay this.", previous_response_id=first.id, tools=[])
    code, told_of = report(calling, second.id)
    assert (code, told_of["same"]) == (0, True)
    then, now = upstream.calls("Replay this.")
    assert then["body"]["messages"] == now["body"]["messages"]
    assert "tool" in [message["role"] for message in now["body"]["messages"]]


@pytest.mark.requirement("responses.approval")
def test_a_call_is_approved_once_in_a_chain_and_once_in_each_branch(
    respond: Respond, mcp_url: str
) -> None:
    server = {"type": "mcp", "server_label": "sums", "server_url": mcp_url}

    def answer(asked: Any, before: Any, *, approve: bool = True) -> Any:
        said = {"type": "mcp_approval_response", "approval_request_id": asked.id}
        return respond(
            [said | {"approve": approve}], previous_response_id=before.id, tools=[server]
        )

    first = respond('Count.\n!tool count {"key": "approved"}', tools=[server])
    asked = first.output[-1]
    second = answer(asked, first)
    assert [item.output for item in second.output if item.type == "mcp_call"] == ["1"]
    third = respond("Thanks.", previous_response_id=second.id, tools=[server])
    for before in (second, third):
        with pytest.raises(openai.BadRequestError) as refused:
            answer(asked, before)
        assert refused.value.param == "input[0].approval_request_id"
    branch = answer(asked, first)  # which knows nothing of the other
    assert [item.output for item in branch.output if item.type == "mcp_call"] == ["2"]


@pytest.mark.requirement("responses.approval")
def test_a_no_is_told_to_the_model_and_stays_one(
    respond: Respond, mcp_url: str, upstream: UpstreamProcess
) -> None:
    server = {"type": "mcp", "server_label": "sums", "server_url": mcp_url}
    first = respond('Count.\n!tool count {"key": "denied"}', tools=[server])
    said = {
        "type": "mcp_approval_response",
        "approval_request_id": first.output[-1].id,
        "approve": False,
    }
    asked = [said, {"role": "user", "content": "Why not?"}]
    second = respond(asked, previous_response_id=first.id, tools=[server])
    assert "mcp_call" not in [item.type for item in second.output]
    respond("What did I forbid?", previous_response_id=second.id, tools=[server])
    for text in ("Why not?", "What did I forbid?"):
        messages = told(upstream, text)
        (at,) = (n for n, one in enumerate(messages) if one["role"] == "tool")
        assert messages[at]["content"] == "The user did not allow this call."
        (call,) = messages[at - 1]["tool_calls"]
        assert "denied" in call["function"]["arguments"]
    yes = said | {"approve": True}
    with pytest.raises(openai.BadRequestError) as refused:
        respond([yes], previous_response_id=second.id, tools=[server])
    assert refused.value.param == "input[0].approval_request_id"
