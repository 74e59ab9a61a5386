"""Tools listed and called at /mcp by the SDK's client, in both versions of the protocol."""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from mcp import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, TextContent

from bus import open_bus
from schemas import subjects
from tests.support.edge import edge_settings, running_edge
from tests.support.mcp import (
    ACCEPTED,
    OLD,
    VERSIONS,
    become_guest,
    headers,
    mcp_client,
    request,
    versions,
)
from tests.support.mcp_edge import Mcp, serving_mcp


@pytest.mark.requirement("mcp.list", "mcp.call")
@versions
async def test_a_guest_lists_and_calls_tools(served: Mcp, version: str) -> None:
    token = await become_guest(served.url)
    async with mcp_client(served.url, token, version) as client:
        listed = (await client.list_tools()).tools
        result = await client.call_tool("echo", {"text": "ab", "times": 2})
        assert client.protocol_version == version

    names = [tool.name for tool in listed]
    assert names == ["count", "echo", "held", "large", "quick", "refuse", "split"]
    tool, held = listed[1], listed[2]
    assert tool.title == "Echo"
    assert tool.description == "Says it again."
    assert tool.input_schema["properties"]["times"]["maximum"] == 9
    assert tool.output_schema is not None
    assert tool.annotations is not None
    assert held.annotations is not None
    assert (tool.annotations.idempotent_hint, held.annotations.idempotent_hint) == (True, False)
    assert result.content == [TextContent(text="abab")]
    assert result.structured_content == {"text": "abab"}
    assert not result.is_error


@pytest.mark.requirement("mcp.call")
async def test_a_call_is_told_to_the_log_as_its_callers(served: Mcp) -> None:
    token = await become_guest(served.url)
    async with served.http(token) as client:
        answer = await client.post(
            "/v1/mcp",
            json=request("tools/call", name="echo", arguments={"text": "a"}),
            headers=headers("tools/call", "echo", x_request_id="req_mine"),
        )
    assert answer.json()["result"]["structuredContent"] == {"text": "a"}
    assert answer.headers["x-request-id"] == "req_mine"
    told = await served.finished("echo")
    assert told.call_id.startswith("tool_")
    assert told.request_id == "req_mine"
    assert told.principal == answer.headers["x-principal-id"]
    assert bytes(told.arguments or b"") == b'{"text":"a"}'


@pytest.mark.requirement("mcp.failures")
@versions
async def test_a_failed_call_says_why(served: Mcp, version: str) -> None:
    async with mcp_client(served.url, await served.key(), version) as client:
        failed = await client.call_tool("refuse")
        wrong = await client.call_tool("echo", {"times": 10})
    assert failed.is_error
    assert failed.content == [TextContent(text="I would rather not.")]
    assert wrong.is_error
    assert "times" in str(wrong.content)


@pytest.mark.requirement("mcp.failures")
async def test_a_result_without_its_structured_form_is_an_error(served: Mcp) -> None:
    async with mcp_client(served.url, await served.key()) as client:
        cut = await client.call_tool("large")
    assert cut.is_error
    assert "Left out here" in str(cut.content)


@pytest.mark.requirement("mcp.call")
@versions
async def test_what_is_structured_but_no_object_is_left_out(served: Mcp, version: str) -> None:
    async with mcp_client(served.url, await served.key(), version) as client:
        (tool,) = [tool for tool in (await client.list_tools()).tools if tool.name == "split"]
        result = await client.call_tool("split", {"text": "ab"})
    assert tool.output_schema is None
    assert result.structured_content is None
    assert result.content == [TextContent(text="ab")]
    assert not result.is_error


@pytest.mark.requirement("mcp.failures")
@pytest.mark.parametrize("name", ["nothing", "absent", "\0", "x" * 5000])
@versions
async def test_a_tool_that_is_not_there_is_a_wrong_parameter(
    served: Mcp, version: str, name: str
) -> None:
    async with mcp_client(served.url, await served.key(), version) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool(name)
    assert refused.value.code == INVALID_PARAMS
    assert refused.value.data["param"] == "name"


@pytest.mark.requirement("mcp.failures")
async def test_arguments_have_a_limit(served: Mcp) -> None:
    async with mcp_client(served.url, await served.key()) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("echo", {"text": "x" * 262_144})
        assert refused.value.code == INVALID_PARAMS
        assert refused.value.data["param"] == "arguments"
        with pytest.raises(MCPError, match="the body is larger than"):
            await client.call_tool("echo", {"text": "x" * (4 << 20)})


@pytest.mark.requirement("mcp.failures")
async def test_a_full_queue_is_told(served: Mcp) -> None:
    token = await served.key()
    await served.worker.aclose()
    async with open_bus(served.nats.url("edge"), name="filling") as bus:
        await asyncio.gather(
            *(
                bus.store(subjects.tool_job("mcp"), b"{}", msg_id=f"fill-{number}")
                for number in range(4096)
            )
        )
    async with mcp_client(served.url, token) as client:
        with pytest.raises(MCPError, match="too many calls of echo wait") as refused:
            await client.call_tool("echo")
    assert refused.value.code == INTERNAL_ERROR
    assert refused.value.data["code"] == "queue_full"
    assert refused.value.data["retry_after"] == 1


@pytest.mark.requirement("mcp.failures")
@versions
async def test_without_a_worker_a_call_ends_at_its_deadline(served: Mcp, version: str) -> None:
    token = await served.key()
    await served.worker.aclose()
    async with mcp_client(served.url, token, version) as client:
        with pytest.raises(MCPError, match="no worker took the call of quick in time") as late:
            await client.call_tool("quick")
    assert late.value.data["code"] == "no_worker"


@pytest.mark.requirement("mcp.progress")
@versions
async def test_progress_is_told_to_who_asks_for_it(served: Mcp, version: str) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async with mcp_client(served.url, await served.key(), version) as client:
        result = await client.call_tool("count", {"times": 3}, progress_callback=on_progress)
        silent = await client.call_tool("count", {"times": 2})
    assert told == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]
    assert result.content == silent.content == [TextContent(text="counted")]


@pytest.mark.requirement("mcp.cancel")
@versions
async def test_a_cancelled_call_stops_its_tool(served: Mcp, version: str) -> None:
    async with mcp_client(served.url, await served.key(), version) as client:
        call = asyncio.create_task(client.call_tool("held"))
        await asyncio.wait_for(served.held.begun.wait(), 20)
        call.cancel()
        await asyncio.wait_for(served.held.stopped.wait(), 20)
        with suppress(asyncio.CancelledError):
            await call
        assert (await client.call_tool("echo", {"text": "a"})).structured_content == {"text": "a"}
    assert (await served.finished("held")).status == "cancelled"


@pytest.mark.requirement("mcp.cancel")
@versions
async def test_who_hangs_up_cancels(served: Mcp, version: str) -> None:
    body, told = request("tools/call", name="held"), headers("tools/call", "held")
    if version == OLD:
        told = {"accept": ACCEPTED, "mcp-protocol-version": OLD}
    async with served.http(await served.key()) as client:
        call = asyncio.create_task(client.post("/mcp", json=body, headers=told))
        await asyncio.wait_for(served.held.begun.wait(), 20)
        call.cancel()
        await asyncio.wait_for(served.held.stopped.wait(), 20)


@pytest.mark.requirement("mcp.cancel")
async def test_a_session_cancels_its_own_calls_only(served: Mcp) -> None:
    token = await served.key()
    async with served.http(token) as client:
        told = {"accept": ACCEPTED, "mcp-protocol-version": OLD}
        mine, other = told | {"mcp-session-id": "mine"}, told | {"mcp-session-id": "other"}
        call = asyncio.create_task(
            client.post("/mcp", json=request("tools/call", name="held"), headers=mine)
        )
        await asyncio.wait_for(served.held.begun.wait(), 20)
        stop = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": 1},
        }
        async with served.http(await served.key()) as somebody:
            assert (await somebody.post("/mcp", json=stop, headers=mine)).status_code == 202
        assert (await client.post("/mcp", json=stop, headers=told)).status_code == 202
        assert (await client.post("/mcp", json=stop, headers=other)).status_code == 202
        # A call that comes after these and has ended shows that they have cancelled nothing.
        await client.post(
            "/mcp", json=request("tools/call", name="echo"), headers=headers("tools/call", "echo")
        )
        assert not served.held.stopped.is_set()
        assert (await client.post("/mcp", json=stop, headers=mine)).status_code == 202
        await asyncio.wait_for(served.held.stopped.wait(), 20)
        assert "-32800" in (await call).text


@pytest.mark.requirement("mcp.cancel")
async def test_a_call_is_called_off_at_any_edge(served: Mcp, tmp_path: Path) -> None:
    token = await served.key()
    told = {"accept": ACCEPTED, "mcp-protocol-version": OLD, "mcp-session-id": "mine"}
    stop = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    settings = edge_settings(served.nats, tmp_path / "edge", name="edge-2")
    async with running_edge(settings) as url, served.http(token) as client:
        call = asyncio.create_task(
            client.post("/mcp", json=request("tools/call", name="held"), headers=told)
        )
        await asyncio.wait_for(served.held.begun.wait(), 20)
        known = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url, headers=known) as elsewhere:
            assert (await elsewhere.post("/mcp", json=stop, headers=told)).status_code == 202
        await asyncio.wait_for(served.held.stopped.wait(), 20)
        assert "-32800" in (await call).text


@pytest.mark.requirement("mcp.call")
@versions
async def test_a_hundred_calls_at_once(served: Mcp, version: str) -> None:
    async with mcp_client(served.url, await served.key(), version) as client:
        results = await asyncio.gather(
            *(client.call_tool("echo", {"text": f"{number} "}) for number in range(100))
        )
    assert [result.structured_content for result in results] == [
        {"text": f"{number} "} for number in range(100)
    ]


@pytest.mark.requirement("mcp.call")
@versions
async def test_a_call_ends_before_its_edge_does(tmp_path: Path, version: str) -> None:
    begun = asyncio.Event()

    async def on_progress(*_told: object) -> None:
        begun.set()

    async with serving_mcp(tmp_path, drain_timeout=20) as served:
        token = await served.key()
        async with mcp_client(served.url, token, version) as client:
            await client.list_tools()  # or the client would ask for a schema after the call
            call = asyncio.create_task(
                client.call_tool("count", {"times": 4}, progress_callback=on_progress)
            )
            await asyncio.wait_for(begun.wait(), 20)
            await served.edge.aclose()
            assert (await call).content == [TextContent(text="counted")]


@pytest.mark.requirement("mcp.call")
async def test_an_edge_that_stops_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with serving_mcp(tmp_path) as served:
            token = await served.key()
            for version in VERSIONS:
                async with mcp_client(served.url, token, version) as client:
                    await client.call_tool("echo", {"text": "a"})
            body, told = request("tools/call", name="held"), headers("tools/call", "held")
            async with served.http(token) as client:
                call = asyncio.create_task(client.post("/mcp", json=body, headers=told))
                await asyncio.wait_for(served.held.begun.wait(), 20)
        await asyncio.wait([call])
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert [task for task in others if "sse_starlette" not in repr(task)] == []
    assert [record for record in caplog.records if record.name.startswith("mcp")] == []
