"""/mcp on a real edge and a real worker of tools, asked by the SDK's client in both versions."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from mcp import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, TextContent

from bus import Bus, open_bus
from schemas import subjects
from schemas.tools import ToolFinished, decode_tool_finished
from tests.support.edge import edge_settings, running_edge, store_key
from tests.support.mcp import (
    ACCEPTED,
    NEW,
    OLD,
    VERSIONS,
    become_guest,
    headers,
    mcp_client,
    request,
)
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.tools import Said, running_tools, scripted
from workers.tools.outcome import Answer, Failed
from workers.tools.tool import Context, ServerTool

versions = pytest.mark.parametrize("version", VERSIONS)


class Text(msgspec.Struct):
    """What `echo` gives."""

    text: str


class Held:
    """A tool that goes on until it is stopped, and tells of both."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.stopped = asyncio.Event()

    async def run(self, _said: Said, _call: Context) -> Answer:
        """Go on."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()
        return Answer("")


async def echo(said: Said, _call: Context) -> Answer:
    """Say it as often as asked."""
    return Answer(said.text * said.times, structured=Text(said.text * said.times))


async def large(_said: Said, _call: Context) -> Answer:
    """Say more than a message of the bus holds."""
    return Answer("large", structured=Text("x" * 300_000))


async def split(said: Said, _call: Context) -> Answer:
    """Give what is structured, but no object."""
    return Answer(said.text, structured=list(said.text))


async def count(said: Said, call: Context) -> Answer:
    """Tell how far it is, no faster than that is passed on."""
    for number in range(1, said.times + 1):
        call.progress(number, said.times, f"step {number}")
        await asyncio.sleep(0.25)
    return Answer("counted")


async def refuse(_said: Said, _call: Context) -> Answer:
    """Fail."""
    raise Failed("refused", "I would rather not.")


def toolset(held: Held) -> dict[str, ServerTool]:
    """The tools of these tests."""
    made = [
        scripted(echo, name="echo", output=Text),
        scripted(large, name="large", output=Text),
        scripted(count, name="count"),
        scripted(split, name="split", output=list[str]),
        scripted(refuse, name="refuse"),
        scripted(held.run, name="held", idempotent=False),
        scripted(echo, name="quick", timeout=0.2),
        scripted(echo, name="absent", lacks=lambda _: "nobody paid for it"),
    ]
    return {tool.about.name: tool for tool in made}


@dataclass
class Mcp:
    """A server: its address, who looks at its bus, its edge and its worker of tools."""

    url: str
    nats: NatsServer
    observer: Bus
    held: Held
    edge: AsyncExitStack
    worker: AsyncExitStack

    async def key(self, *scopes: str) -> str:
        """An API key of a new user."""
        key, _ = await store_key(self.nats, scopes=list(scopes))
        return key

    @asynccontextmanager
    async def http(self, token: str = "") -> AsyncIterator[httpx.AsyncClient]:
        """A plain client, to send what the SDK's would not."""
        known = {"authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient(base_url=self.url, headers=known, timeout=60) as client:
            yield client

    async def finished(self, tool: str) -> ToolFinished:
        """What the log says of the one call of a tool."""
        async with asyncio.timeout(20):
            while True:
                async for stored in self.observer.read_subject(
                    subjects.EVENTS, "events.tool.finished.*"
                ):
                    told = decode_tool_finished(stored.data)
                    if told.tool == tool:
                        return told


@asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[Mcp]:
    """Run a bus, an edge and a worker of tools."""
    held = Held()
    told = {"guest_in_flight": 200, "guest_rpm": 10_000} | settings
    with running_nats(folder / "nats") as nats:
        await migrate(nats)
        async with (
            open_bus(nats.url("cli"), name="observer") as observer,
            AsyncExitStack() as edge,
            AsyncExitStack() as worker,
        ):
            settled = edge_settings(nats, folder / "edge", **told)
            url = await edge.enter_async_context(running_edge(settled))
            await worker.enter_async_context(running_tools(nats, toolset(held)))
            yield Mcp(url, nats, observer, held, edge, worker)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Mcp]:
    async with serving(tmp_path) as served:
        yield served


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


@pytest.mark.requirement("mcp.auth")
@pytest.mark.parametrize("path", ["/mcp", "/v1/mcp"])
async def test_who_has_no_credential_is_told_how_to_get_one(served: Mcp, path: str) -> None:
    async with served.http() as client:
        refused = await client.post(path, json=request("tools/list"), headers=headers("tools/list"))
        assert refused.status_code == 401
        assert refused.json()["error"]["data"]["code"] == "missing_credentials"
        challenge = refused.headers["www-authenticate"]
        url = f"{served.url}/.well-known/oauth-protected-resource{path}"
        assert challenge == f'Bearer realm="jan", resource_metadata="{url}"'
        told = (await client.get(url)).json()
        assert told["resource"] == served.url + path
        assert told["authorization_servers"] == [served.url]
        root = (await client.get("/.well-known/oauth-protected-resource")).json()
        assert root["resource"] == served.url
    async with served.http("not.a.token") as client:
        refused = await client.post(path, json=request("tools/list"), headers=headers("tools/list"))
        assert refused.status_code == 401
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]


@pytest.mark.requirement("mcp.auth")
async def test_the_metadata_is_what_the_operator_says(tmp_path: Path) -> None:
    told = {
        "public_url": "https://jan.example.com/",
        "authorization_servers": "https://id.example.com",
    }
    async with serving(tmp_path, **told) as served, served.http() as client:
        answer = await client.get("/.well-known/oauth-protected-resource/mcp")
    assert answer.json()["resource"] == "https://jan.example.com/mcp"
    assert answer.json()["authorization_servers"] == ["https://id.example.com"]


@pytest.mark.requirement("mcp.auth")
async def test_limits_hold_here_too(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, guest_rpm=1) as served,
        mcp_client(served.url, await become_guest(served.url)) as client,
    ):
        await client.call_tool("refuse")
        with pytest.raises(MCPError, match="too many requests: 1 a minute") as refused:
            await client.call_tool("refuse")
    assert refused.value.data["code"] == "rate_limit_exceeded"
    assert refused.value.data["retry_after"] > 0


@pytest.mark.requirement("mcp.versions")
@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        (headers("tools/call", "other"), 400, -32020),
        (headers("prompts/get", "echo"), 400, -32020),
        (headers("tools/call"), 400, -32020),
        (headers("tools/call", "echo", mcp_protocol_version="2030-01-01"), 400, -32022),
    ],
)
async def test_headers_that_say_something_else_are_refused(
    served: Mcp, told: dict[str, str], status: int, code: int
) -> None:
    body = request("tools/call", name="echo")
    version = told["mcp-protocol-version"]
    body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = version
    async with served.http(await served.key()) as client:
        answer = await client.post("/mcp", json=body, headers=told)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    if code == -32022:
        assert NEW in answer.json()["error"]["data"]["supported"]


@pytest.mark.requirement("mcp.versions")
async def test_what_the_protocol_has_not_is_refused_in_its_words(served: Mcp) -> None:
    async with served.http(await served.key()) as client:
        unknown = await client.post(
            "/mcp", json=request("tools/paint"), headers=headers("tools/paint")
        )
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, -32601)
        assert unknown.json()["id"] == 1
        notice = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await client.post("/mcp", json=notice, headers=headers("x"))).status_code == 202
        broken = await client.post(
            "/mcp",
            content=b"{",
            headers=headers("tools/list") | {"content-type": "application/json"},
        )
        assert (broken.status_code, broken.json()["error"]["code"]) == (400, -32700)
        picky = headers("tools/list") | {"accept": "application/json"}
        refused = await client.post("/mcp", json=request("tools/list"), headers=picky)
        assert refused.status_code == 406
        for method in ("GET", "DELETE"):
            answer = await client.request(method, "/mcp", headers={"accept": ACCEPTED})
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.requirement("mcp.errors")
@versions
@pytest.mark.parametrize(
    ("method", "params", "field"),
    [
        ("tools/call", {"name": "echo", "arguments": [1]}, "params.arguments"),
        ("tools/call", {"arguments": {}}, "params.name"),
        ("tools/list", {"cursor": 7}, "params.cursor"),
        ("resources/read", {}, "params.uri"),
        ("resources/list", {"cursor": ""}, "params.cursor"),
        ("prompts/get", {"name": "p", "arguments": {"a": 1}}, "params.arguments"),
        ("prompts/get", {"name": ""}, "params.name"),
    ],
)
async def test_a_wrong_parameter_is_named(
    served: Mcp, version: str, method: str, params: dict[str, Any], field: str
) -> None:
    body = request(method, **params)
    told = headers(method, str(params.get("name", "")))
    if version == OLD:
        body["params"] = params
        told = {"accept": ACCEPTED, "mcp-protocol-version": OLD}
    async with served.http(await served.key()) as client:
        answer = await client.post("/mcp", json=body, headers=told)
    error = _error_of(answer.text)
    assert (error["code"], error["data"]["param"]) == (INVALID_PARAMS, field)
    assert f"'{field}'" in error["message"]
    assert answer.status_code == (200 if version == OLD else 400)


@pytest.mark.requirement("mcp.errors")
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("[]", None),
        ('{"jsonrpc":"2.0","id":1}', "method"),
        ('{"jsonrpc":"2.0","id":1,"method":7}', "method"),
        ('{"jsonrpc":"1.0","id":1,"method":"ping"}', "jsonrpc"),
        ('{"jsonrpc":"2.0","id":[],"method":"ping"}', "id"),
        ('{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}', "params"),
    ],
)
async def test_what_is_no_message_is_refused_in_our_words(
    served: Mcp, body: str, field: str | None
) -> None:
    told = {"accept": ACCEPTED, "content-type": "application/json"}
    async with served.http(await served.key()) as client:
        answer = await client.post("/mcp", content=body, headers=told)
        ignored = '{"jsonrpc":"2.0","id":1,"result":{}}'
        assert (await client.post("/mcp", content=ignored, headers=told)).status_code == 202
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], answer.json()["id"]) == (400, -32600, None)
    assert error["data"].get("param") == field
    assert "pydantic" not in answer.text


def _error_of(text: str) -> Any:
    """The error in an answer that is JSON or an event."""
    return msgspec.json.decode(text[text.index("{") :].strip())["error"]


@pytest.mark.requirement("mcp.versions")
async def test_the_new_version_tells_how_long_a_list_is_good(served: Mcp) -> None:
    async with served.http(await served.key()) as client:
        told = await client.post(
            "/mcp", json=request("server/discover"), headers=headers("server/discover")
        )
        assert NEW in told.json()["result"]["supportedVersions"]
        assert set(told.json()["result"]["capabilities"]) == {"tools", "resources", "prompts"}
        listed = await client.post(
            "/mcp", json=request("tools/list"), headers=headers("tools/list")
        )
    result = listed.json()["result"]
    assert (result["ttlMs"], result["cacheScope"]) == (10_000, "public")
    assert result["resultType"] == "complete"


@pytest.mark.requirement("mcp.origin")
async def test_pages_of_elsewhere_may_not_call(served: Mcp) -> None:
    token = await served.key()
    async with served.http(token) as client:

        async def status(**more: str) -> int:
            told = headers("tools/list", **more)
            return (await client.post("/mcp", json=request("tools/list"), headers=told)).status_code

        assert await status() == 200
        assert await status(origin=served.url) == 200
        assert await status(host="jan.example.com", origin="https://jan.example.com") == 200
        assert await status(origin="https://evil.example.com") == 403
        assert await status(origin="null") == 403


@pytest.mark.requirement("mcp.origin")
async def test_the_operator_says_which_hosts_and_pages_are_good(tmp_path: Path) -> None:
    told = {"mcp_hosts": "jan.example.com, other:8080", "cors_origins": "https://app.example.com"}
    async with serving(tmp_path, **told) as served, served.http(await served.key()) as client:

        async def status(**more: str) -> int:
            told = headers("tools/list", **more)
            return (await client.post("/mcp", json=request("tools/list"), headers=told)).status_code

        assert await status() == 421
        assert await status(host="jan.example.com:443") == 200
        assert await status(host="other:8080") == 200
        assert await status(host="other:80") == 421
        assert await status(host="other:8080", origin="https://app.example.com") == 200


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

    async with serving(tmp_path, drain_timeout=20) as served:
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
        async with serving(tmp_path) as served:
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
