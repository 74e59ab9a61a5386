"""The Agents SDK, unchanged: functions, MCP servers, approvals, handoffs, chains and conversations.

The simulated model obeys cues: which tool an agent calls is said in its input.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
import pytest_asyncio
from agents import (
    Agent,
    FunctionTool,
    HostedMCPTool,
    MCPToolApprovalRequest,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
    handoff,
)
from agents.items import RunItem
from agents.mcp import MCPServerStreamableHttp
from openai.types.responses.tool_param import Mcp
from pydantic import BaseModel

from cli.launch import LaunchedServer
from tests.support.mcp_server import running_mcp
from tests.support.server import running_server

PROVIDERS = """
providers:
  - name: cued
    kind: simulated
    options: {seed: 1, ttft_ms: 1, token_ms: 1, cues: true}
    models:
      - {id: cued, capabilities: [chat, tools, json_schema]}
"""
PARIS = '!tool get_weather {"city": "Paris"}'
SUM = '!tool add {"a": 2, "b": 40}'
UNTRACED = RunConfig(tracing_disabled=True)  # tracing would tell OpenAI's servers

Asked = list[str]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedServer]:
    file: Path = tmp_path_factory.mktemp("agents") / "providers.yaml"
    file.write_text(PROVIDERS)
    options = ("--providers", str(file), "--edges", "2")
    with running_server(*options, env={"JAN_OUTBOUND_ALLOW": "127.0.0.1"}) as server:
        yield server


@pytest.fixture(scope="module")
def remote() -> Iterator[str]:
    with running_mcp() as url:
        yield url


@pytest_asyncio.fixture
async def client(serving: LaunchedServer) -> AsyncIterator[openai.AsyncOpenAI]:
    key = serving.create_key()
    async with openai.AsyncOpenAI(base_url=serving.url, api_key=key, max_retries=0) as client:
        yield client


def weather(asked: Asked) -> FunctionTool:
    @function_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return f"sunny in {city}"

    return get_weather


def agent(client: openai.AsyncOpenAI, **given: Any) -> Agent[None]:
    return Agent(name="helper", model=OpenAIResponsesModel("cued", client), **given)


def sums(url: str, approval: Literal["always", "never"]) -> Mcp:
    return {
        "type": "mcp",
        "server_label": "sums",
        "server_url": url,
        "require_approval": approval,
    }


def kinds(items: list[RunItem]) -> list[str]:
    return [item.type for item in items]


@pytest.mark.requirement("responses.agents")
async def test_an_agent_calls_a_function_and_says_what_came_of_it(
    client: openai.AsyncOpenAI,
) -> None:
    asked: Asked = []
    said = await Runner.run(agent(client, tools=[weather(asked)]), PARIS, run_config=UNTRACED)
    assert asked == ["Paris"]
    assert kinds(said.new_items) == [
        "tool_call_item",
        "tool_call_output_item",
        "message_output_item",
    ]
    assert said.final_output == "get_weather answered: sunny in Paris"
    assert said.context_wrapper.usage.requests == 2
    assert said.context_wrapper.usage.output_tokens > 0


@pytest.mark.requirement("responses.agents")
async def test_a_run_is_streamed_item_by_item(client: openai.AsyncOpenAI) -> None:
    asked: Asked = []
    run = Runner.run_streamed(agent(client, tools=[weather(asked)]), PARIS, run_config=UNTRACED)
    names = [
        event.name async for event in run.stream_events() if event.type == "run_item_stream_event"
    ]
    assert names == ["tool_called", "tool_output", "message_output_created"]
    assert run.final_output == "get_weather answered: sunny in Paris"
    assert asked == ["Paris"]


@pytest.mark.requirement("responses.agents.mcp")
async def test_this_server_calls_an_mcp_server_for_an_agent(
    client: openai.AsyncOpenAI, remote: str
) -> None:
    tool = HostedMCPTool(tool_config=sums(remote, "never"))
    said = await Runner.run(agent(client, tools=[tool]), SUM, run_config=UNTRACED)
    assert kinds(said.new_items) == ["mcp_list_tools_item", "tool_call_item", "message_output_item"]
    assert said.final_output == "add answered: 42"
    assert said.context_wrapper.usage.requests == 1


@pytest.mark.requirement("responses.agents.mcp")
@pytest.mark.parametrize("approve", [True, False])
async def test_an_agent_is_asked_before_an_mcp_server_is_called(
    client: openai.AsyncOpenAI, remote: str, approve: bool
) -> None:
    questions: list[str] = []

    def on_request(request: MCPToolApprovalRequest) -> Any:
        questions.append(request.data.name)
        return {"approve": approve}

    tool = HostedMCPTool(tool_config=sums(remote, "always"), on_approval_request=on_request)
    said = await Runner.run(agent(client, tools=[tool]), SUM, run_config=UNTRACED)
    assert questions == ["add"]
    assert ("tool_call_item" in kinds(said.new_items)) is approve
    assert ("42" in said.final_output) is approve


@pytest.mark.requirement("responses.agents.mcp")
async def test_an_agent_uses_this_server_as_its_mcp_server(
    client: openai.AsyncOpenAI, serving: LaunchedServer
) -> None:
    url = serving.url.removesuffix("/v1") + "/mcp"
    headers = {"Authorization": f"Bearer {client.api_key}"}
    async with MCPServerStreamableHttp(params={"url": url, "headers": headers}) as own:
        index = '!tool file_search_index {"document_id": "a", "text": "Blue whales sing."}'
        said = await Runner.run(agent(client, mcp_servers=[own]), index, run_config=UNTRACED)
        assert "file_search_index answered: " in said.final_output
        find = '!tool file_search_query {"query": "whales"}'
        said = await Runner.run(agent(client, mcp_servers=[own]), find, run_config=UNTRACED)
    assert "Blue whales sing." in said.final_output


@pytest.mark.requirement("responses.agents")
async def test_an_agent_hands_over_to_another(client: openai.AsyncOpenAI) -> None:
    clerk = Agent(name="clerk", model=OpenAIResponsesModel("cued", client))
    desk = agent(client, handoffs=[handoff(clerk)])
    said = await Runner.run(desk, "!tool transfer_to_clerk {}", run_config=UNTRACED)
    assert said.last_agent is clerk
    assert said.final_output


@pytest.mark.requirement("responses.agents")
async def test_an_agents_answer_has_its_type(client: openai.AsyncOpenAI) -> None:
    class City(BaseModel):
        name: str
        people: int

    said = await Runner.run(agent(client, output_type=City), "A city.", run_config=UNTRACED)
    assert isinstance(said.final_output, City)


@pytest.mark.requirement("responses.agents")
async def test_runs_go_on_from_a_response_or_in_a_conversation(client: openai.AsyncOpenAI) -> None:
    asked: Asked = []
    helper = agent(client, tools=[weather(asked)])
    first = await Runner.run(helper, "Hello", run_config=UNTRACED)
    second = await Runner.run(
        helper, PARIS, previous_response_id=first.last_response_id, run_config=UNTRACED
    )
    assert second.final_output == "get_weather answered: sunny in Paris"
    session = OpenAIConversationsSession(openai_client=client)
    await Runner.run(helper, "Hello", session=session, run_config=UNTRACED)
    await Runner.run(helper, PARIS, session=session, run_config=UNTRACED)
    kept = [item.get("type") for item in await session.get_items()]
    call = ["function_call", "function_call_output"]
    assert kept == ["message", "message", "message", *call, "message"]
    assert asked == ["Paris", "Paris"]
