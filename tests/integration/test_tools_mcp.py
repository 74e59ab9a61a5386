"""Remote MCP servers: useful ones of operators and requests, and those that mean harm."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus import Bucket
from schemas import subjects
from schemas.sealing import seal
from schemas.tools import Tool, ToolResult, decode_tool
from tests.support.mcp_server import COMMAND, ROOT, running_mcp
from tests.support.nats import NatsServer
from tests.support.tools import ToolDesk, running_tools
from tests.support.web import Asked, Told, Web, answer, redirect, serving
from workers.tools.builtin import TOOLS
from workers.tools.mcp.file import McpFile, read_mcp_file


@pytest.fixture(scope="module")
def remote() -> Iterator[str]:
    with running_mcp() as url:
        yield url


def allowed(url: str) -> dict[str, Any]:
    """Settings that let a server of this machine be reached."""
    return {"tools_queues": ["mcp"], "outbound_allow": [url.split("/")[2]]}


def options(url: str, name: str = "", **given: Any) -> dict[str, Any]:
    told = {"server_label": "test", "server_url": url, "name": name} | given
    return told if name else told | {"op": "list_tools"}


def code_of(result: ToolResult) -> str:
    assert result.error is not None, result.output
    return result.error.code


@pytest.mark.requirement("tools.mcp.request")
async def test_a_requests_server_is_listed_and_called(
    shared_nats: NatsServer, tool_desk: ToolDesk, remote: str
) -> None:
    async with running_tools(shared_nats, **allowed(remote)):
        listed = await tool_desk.result("mcp", options=options(remote))
        summed = await tool_desk.result("mcp", {"a": 2, "b": 40}, options=options(remote, "add"))
        failed = await tool_desk.result("mcp", options=options(remote, "fail"))
        wrong = await tool_desk.result("mcp", {"a": "x"}, options=options(remote, "add"))
        # By its own name: what a server calls its tool is no tool of ours.
        named = options(remote) | {"op": "call_tool", "authorization": None, "headers": None}
        by_name = await tool_desk.result("add", {"a": 1, "b": 2}, options=named)
    tools = msgspec.json.decode(listed.structured or b"")["tools"]
    add = next(tool for tool in tools if tool["name"] == "add")
    assert add["inputSchema"]["required"] == ["a", "b"]
    assert add["title"] == "Add two numbers"
    assert summed.status == "completed"
    assert summed.output == "42"
    assert by_name.output == "3"
    assert code_of(failed) == "tool_error"
    assert "Error executing tool fail" in failed.output
    assert code_of(wrong) == "tool_error"


async def test_a_servers_progress_and_files_are_passed_on(
    shared_nats: NatsServer, tool_desk: ToolDesk, remote: str, tmp_path: Path
) -> None:
    async with running_tools(shared_nats, data=tmp_path, **allowed(remote)):
        job = await tool_desk.call("mcp", {"steps": 3}, options=options(remote, "slow"))
        reading = await tool_desk.until_ended(job.call_id)
        picture = await tool_desk.result("mcp", options=options(remote, "picture"))
    assert [one.progress for one in reading.progress] == [0, 1, 2]
    assert reading.progress[0].message == "at it"
    assert reading.result.output == "done"
    (image,) = picture.artifacts
    assert image.media_type == "image/png"
    assert (tmp_path / "objects" / image.reference).read_bytes() == b"\x89PNG fake"


def yaml(*servers: dict[str, Any]) -> McpFile:
    return read_mcp_file(msgspec.json.encode({"servers": servers}).decode())


async def announced(tool_desk: ToolDesk) -> dict[str, Tool]:
    found: dict[str, Tool] = {}

    def on_change(key: str, value: bytes | None, revision: int) -> None:
        found.pop(key, None)
        if value is not None:
            found[key] = decode_tool(value)

    watch = await Bucket(tool_desk.bus, subjects.KV_TOOLS).watch(on_change, prefix="tool")
    await watch.stop()
    return {tool.name: tool for tool in found.values()}


@pytest.mark.requirement("tools.mcp.operator")
async def test_the_operators_servers_are_tools_of_the_server(
    shared_nats: NatsServer, tool_desk: ToolDesk, remote: str
) -> None:
    by_command = {"label": "local", "command": sys.executable, "args": [*COMMAND[1:], "stdio"]}
    file = yaml(
        {"label": "web", "url": remote, "include": ["add", "odd*"]},
        by_command | {"cwd": str(ROOT), "env": {"SHOWN": "1"}},
    )
    async with running_tools(shared_nats, TOOLS, file=file, tools_queues=["mcp"]):
        told = await announced(tool_desk)
        by_http = await tool_desk.result("web__add", {"a": 1, "b": 2})
        by_stdio = await tool_desk.result("local__add", {"a": 3, "b": 4})
        odd = next(name for name in told if name.startswith("web__odd"))
        renamed = await tool_desk.result(odd)
        variables = await tool_desk.result("local__variables")
        unwanted = await tool_desk.result("web__fail")
    assert {name for name in told if name.startswith("web__")} == {"web__add", odd}
    assert told["web__add"].queue == "mcp"
    assert (by_http.output, by_stdio.output, renamed.output) == ("3", "7", "odd")
    assert "SHOWN" in variables.output
    assert "JAN" not in variables.output
    assert code_of(unwanted) == "unknown_tool"


async def test_a_command_that_ends_is_started_again(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    file = yaml(
        {
            "label": "local",
            "command": sys.executable,
            "args": [*COMMAND[1:], "stdio"],
            "cwd": str(ROOT),
        }
    )
    async with running_tools(shared_nats, file=file, tools_queues=["mcp"]):
        ended = await tool_desk.result("local__end")
        again = await tool_desk.result("local__add", {"a": 1, "b": 1})
    assert ended.status == "failed"
    assert again.output == "2"


async def test_a_server_that_is_away_is_told_as_that(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    file = yaml({"label": "away", "url": "http://127.0.0.1:9/mcp"})
    async with running_tools(shared_nats, file=file, tools_queues=["mcp"]):
        result = await tool_desk.result("away__anything")
    assert code_of(result) == "unavailable"


class Handmade:
    """An MCP server of the older kind, by hand; what it answers to a method can be changed."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.tools = [{"name": "t", "inputSchema": {"type": "object"}}]

    def __call__(self, asked: Asked) -> Told:
        if asked.method != "POST":
            return Told(status=405)
        message = asked.json
        method = message["method"]
        if "id" not in message:
            return Told(status=202)
        given = self.answers.get(method.replace("/", "_"))
        if isinstance(given, Told):
            return given
        return answer({"jsonrpc": "2.0", "id": message["id"], **self._result(method, given)})

    def _result(self, method: str, given: Any) -> dict[str, Any]:
        match method:
            case "initialize":
                about = {"name": "handmade", "version": "1"}
                result: Any = {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {"tools": {}},
                    "serverInfo": about,
                }
            case "tools/list":
                result = {"tools": self.tools}
            case "tools/call":
                result = {"content": [{"type": "text", "text": "fine"}]}
            case _:
                return {"error": {"code": -32601, "message": "no such method"}}
        return {"result": result if given is None else given}


async def never(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def endless(writer: asyncio.StreamWriter) -> None:
    event = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info"}}
    while True:
        event["params"]["data"] = "x" * 10_000  # type: ignore[index]
        writer.write(b"event: message\ndata: %b\n\n" % msgspec.json.encode(event))
        await writer.drain()


SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
HUGE = {"content": [{"type": "text", "text": "x" * (6 << 20)}]}
LONG = {"content": [{"type": "text", "text": "x" * (1 << 20)}]}


@pytest.mark.requirement("tools.mcp.malicious")
@pytest.mark.parametrize(
    ("told", "code"),
    [
        (HUGE, "unreachable"),
        (Told(stream=never, headers=JSON), "timeout"),
        (Told(stream=never, headers=SSE), "timeout"),
        (Told(stream=endless, headers=SSE), None),
        (Told(b"{not json", headers=JSON), "mcp_error"),
        (Told(b"[" * 100_000, headers=JSON), "mcp_error"),
        (Told(b"data: nonsense\n\n", headers=SSE), "mcp_error"),
        (Told(b"<html>", headers={"content-type": "text/html"}), "mcp_error"),
        (Told(b"\x1f\x8b", headers=JSON | {"content-encoding": "gzip"}), "unreachable"),
        (Told(status=401), "unauthorized"),
        (Told(status=500), "mcp_error"),
        (redirect("http://169.254.169.254/latest/meta-data/", 307), "mcp_error"),
        (redirect("/mcp", 307), None),
        ({"content": "no list"}, "bad_response"),
        ({"content": [{"type": "text", "text": 1}]}, "bad_response"),
        ({"content": [{"type": "image", "data": "!!", "mimeType": "x"}]}, "completed"),
        (LONG, "completed"),
    ],
)
async def test_a_malicious_server_hurts_only_its_own_call(
    shared_nats: NatsServer, tool_desk: ToolDesk, told: Any, code: str | None, remote: str
) -> None:
    async with serving(Handmade(tools_call=told)) as web:
        settings = allowed(remote)
        settings["outbound_allow"] = [*settings["outbound_allow"], web.allowed]
        async with running_tools(shared_nats, TOOLS, **settings):
            bad = await tool_desk.call("mcp", options=options(f"{web.url}/mcp", "t"), deadline=3.0)
            good = await tool_desk.call("mcp", {"a": 1, "b": 1}, options=options(remote, "add"))
            fine = await tool_desk.until_ended(good.call_id, 10)
            reading = await tool_desk.until_ended(bad.call_id, 15)
    result = reading.result
    assert fine.result.output == "2"
    assert len(msgspec.json.encode(result)) <= 256 * 1024
    if code == "completed":
        assert result.status == "completed"
    else:
        assert result.status == "failed"
        assert code is None or code_of(result) == code


@pytest.mark.requirement("tools.mcp.malicious")
@pytest.mark.parametrize(
    "told",
    [
        {"tools": [{"name": f"t{n}", "inputSchema": {"type": "object"}} for n in range(1000)]},
        {"tools": [{"name": "t", "inputSchema": {"type": "object", "x": "y" * 300_000}}]},
        {"tools": [], "nextCursor": "again"},
        {"tools": [{"name": "t"}]},
        Told(stream=endless, headers=SSE),
    ],
)
async def test_a_malicious_list_is_refused(
    shared_nats: NatsServer, tool_desk: ToolDesk, told: Any
) -> None:
    async with (
        serving(Handmade(tools_list=told)) as web,
        running_tools(shared_nats, **allowed(web.url)),
    ):
        result = await tool_desk.result("mcp", options=options(web.url), deadline=5.0)
    assert result.status == "failed"


async def test_a_list_is_remembered_for_a_while(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    made = Handmade()
    async with serving(made) as web, running_tools(shared_nats, **allowed(web.url)):
        first = await tool_desk.result("mcp", options=options(web.url))
        made.tools = []
        second = await tool_desk.result("mcp", options=options(web.url))
        other = await tool_desk.result("mcp", options=options(web.url, headers={"X-Team": "b"}))
    assert first.output == second.output == "Tools: t"
    assert other.output == "Tools: none"


async def test_tools_that_change_are_announced_anew(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    made = Handmade()
    changed = asyncio.Event()

    def on_change(key: str, value: bytes | None, revision: int) -> None:
        if key == "tool.hand__new":
            changed.set()

    async with serving(made) as web:
        file = yaml({"label": "hand", "url": f"{web.url}/mcp"})
        async with running_tools(shared_nats, file=file, tools_queues=["mcp"], mcp_list_kept=0.2):
            watch = await Bucket(tool_desk.bus, subjects.KV_TOOLS).watch(on_change)
            made.tools = [{"name": "new", "inputSchema": {"type": "object"}}]
            await asyncio.wait_for(changed.wait(), 10)
            new = await tool_desk.result("hand__new")
            old = await tool_desk.result("hand__t")
            await watch.stop()
    assert new.output == "fine"
    assert code_of(old) == "unknown_tool"


@pytest.mark.requirement("tools.mcp.secrets")
async def test_credentials_travel_sealed_and_are_told_to_nobody(
    shared_nats: NatsServer, tool_desk: ToolDesk, capfd: pytest.CaptureFixture[str]
) -> None:
    secret, other = "token-of-somebody", "key-of-somebody"
    async with (
        serving(Handmade()) as web,
        running_tools(shared_nats, sealing_key="k", **allowed(web.url)),
    ):
        given = options(
            web.url,
            "t",
            authorization=seal("k", secret),
            headers={"X-Key": seal("k", other), "X-Plain": "plain"},
        )
        job = await tool_desk.call("mcp", options=given)
        reading = await tool_desk.until_ended(job.call_id)
        wrong = await tool_desk.result(
            "mcp", options=options(web.url, "t", authorization=seal("another", secret))
        )
        (finished,) = await tool_desk.finished(job)
    assert reading.result.output == "fine"
    assert web.asked[0].headers["authorization"] == f"Bearer {secret}"
    assert web.asked[0].headers["x-key"] == other
    assert web.asked[0].headers["x-plain"] == "plain"
    assert code_of(wrong) == "invalid_options"
    stored = [msgspec.json.encode(finished), msgspec.json.encode(job), wrong.output.encode()]
    printed = "".join(capfd.readouterr()).encode()
    for text in [*stored, printed]:
        assert secret.encode() not in text
        assert other.encode() not in text


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/mcp",
        "http://169.254.169.254/mcp",
        "http://[::ffff:10.0.0.1]/mcp",
        "file:///etc/passwd",
        "http://user:secret@example.com/mcp",
    ],
)
async def test_a_requests_server_must_be_on_the_public_internet(
    shared_nats: NatsServer, tool_desk: ToolDesk, url: str
) -> None:
    async with running_tools(shared_nats, tools_queues=["mcp"]):
        result = await tool_desk.result("mcp", options=options(url, "t"))
    assert code_of(result) == "refused"
    assert "secret" not in result.output


@pytest.mark.parametrize(
    "given",
    [
        None,
        {"server_label": "x"},
        {"server_label": "x", "server_url": "https://example.com", "headers": []},
        {"server_label": "x", "server_url": "https://example.com", "op": "delete"},
        {"server_label": "x", "server_url": "https://e.com", "name": "t", "headers": {"Host": "x"}},
        {
            "server_label": "x",
            "server_url": "https://e.com",
            "name": "t",
            "headers": {"a": "b\r\nc"},
        },
    ],
)
async def test_options_that_make_no_sense_are_refused(
    shared_nats: NatsServer, tool_desk: ToolDesk, given: Any
) -> None:
    async with running_tools(shared_nats, tools_queues=["mcp"]):
        result = await tool_desk.result("mcp", options=given)
    assert code_of(result) == "invalid_options"


@pytest.mark.requirement("tools.breaker")
async def test_a_server_that_keeps_failing_is_left_alone_by_its_callers_only(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    async with serving(Handmade(tools_call=Told(status=500))) as web:
        settings = allowed(web.url) | {"tool_breaker_failures": 2}
        async with running_tools(shared_nats, **settings):
            for _ in range(2):
                await tool_desk.result("mcp", options=options(web.url, "t"))
            asked = len(web.asked)
            left_alone = await tool_desk.result("mcp", options=options(web.url, "t"))
            assert len(web.asked) == asked
            mine = await tool_desk.result(
                "mcp", options=options(web.url, "t", authorization="mine")
            )
    assert code_of(left_alone) == "unavailable"
    assert code_of(mine) == "mcp_error"


async def test_a_cancel_ends_a_servers_call(shared_nats: NatsServer, tool_desk: ToolDesk) -> None:
    web: Web
    async with (
        serving(Handmade(tools_call=Told(stream=never, headers=SSE))) as web,
        running_tools(shared_nats, **allowed(web.url)),
    ):
        job = await tool_desk.call("mcp", options=options(web.url, "t"))
        await tool_desk.until_begun(job.call_id)
        await tool_desk.cancel(job.call_id)
        reading = await tool_desk.until_ended(job.call_id, 5)
    assert reading.result.status == "cancelled"
