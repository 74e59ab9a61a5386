"""Tools as /v1/mcp-tools and /v1/admin/tools show them, and what a switch does to /mcp."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from mcp import MCPError

from bus import Bus, open_bus
from tests.support.edge import edge_settings, running_edge, store_key
from tests.support.mcp import mcp_client
from tests.support.nats import migrate, running_nats
from tests.support.tools import Said, running_tools, scripted
from workers.tools.outcome import Answer
from workers.tools.tool import Context

ECHO = "/v1/admin/tools/echo"


async def echo(said: Said, _call: Context) -> Answer:
    """Say it."""
    return Answer(said.text)


TOOLS = {
    "echo": scripted(echo),
    "absent": scripted(echo, name="absent", lacks=lambda _: "nobody paid for it"),
}


@dataclass
class Served:
    """A server with two tools, an administrator and a user."""

    url: str
    key: str
    admin: httpx.AsyncClient
    user: httpx.AsyncClient
    bus: Bus

    async def names(self) -> list[str]:
        """The tools that a user is shown."""
        return [tool["name"] for tool in (await self.user.get("/v1/mcp-tools")).json()["data"]]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    with running_nats(tmp_path / "nats") as nats:
        await migrate(nats)
        admin, _ = await store_key(nats, scopes=["admin"])
        user, _ = await store_key(nats)
        async with (
            running_edge(edge_settings(nats, tmp_path / "edge")) as url,
            running_tools(nats, TOOLS),
            open_bus(nats.url("cli"), name="observer") as bus,
            httpx.AsyncClient(base_url=url, headers={"x-api-key": admin}) as administrator,
            httpx.AsyncClient(base_url=url, headers={"x-api-key": user}) as client,
        ):
            yield Served(url, user, administrator, client, bus)


@pytest.mark.requirement("mcp.tools")
async def test_everybody_sees_what_can_be_called(served: Served) -> None:
    assert await served.names() == ["echo"]
    tool = (await served.user.get("/v1/mcp-tools/echo")).json()
    assert tool["title"] == "Echo"
    assert tool["description"] == "Says it again."
    assert tool["input_schema"]["type"] == "object"
    assert (await served.user.get("/v1/mcp-tools/absent")).status_code == 404
    async with httpx.AsyncClient(base_url=served.url) as nobody:
        assert (await nobody.get("/v1/mcp-tools")).status_code == 401


@pytest.mark.requirement("mcp.admin")
async def test_administrators_see_all_and_others_nothing(served: Served) -> None:
    absent, told = (await served.admin.get("/v1/admin/tools")).json()["data"]
    assert absent["unavailable"] == "nobody paid for it"
    assert told["name"] == "echo"
    assert told["enabled"] is True
    assert told["unavailable"] is None
    assert told["disallowed_keywords"] == []
    assert (await served.user.get("/v1/admin/tools")).status_code == 403
    assert (await served.user.patch(ECHO, json={"enabled": False})).status_code == 403
    assert (await served.admin.patch("/v1/admin/tools/nothing", json={})).status_code == 404


@pytest.mark.requirement("mcp.admin")
async def test_a_tool_that_is_off_is_gone_and_refused(served: Served) -> None:
    async with mcp_client(served.url, served.key) as client:
        off = await served.admin.patch(ECHO, json={"enabled": False})
        assert off.json()["enabled"] is False
        assert await served.names() == []
        assert (await client.list_tools()).tools == []
        with pytest.raises(MCPError, match="there is no tool 'echo'"):
            await client.call_tool("echo")
        await served.admin.patch(ECHO, json={"enabled": True})
        assert await served.names() == ["echo"]
        assert not (await client.call_tool("echo")).is_error


@pytest.mark.requirement("mcp.admin")
async def test_an_operator_describes_a_tool_and_refuses_words(served: Served) -> None:
    changed = await served.admin.patch(
        ECHO, json={"description": "Only for songs.", "disallowed_keywords": ["Opera"]}
    )
    assert changed.json()["description"] == "Only for songs."
    assert changed.json()["own_description"] == "Says it again."
    async with mcp_client(served.url, served.key) as client:
        (tool,) = (await client.list_tools()).tools
        assert tool.description == "Only for songs."
        refused = await client.call_tool("echo", {"text": "an opera"})
        assert refused.is_error
        assert "opera" in str(refused.content).lower()
    reset = (await served.admin.patch(ECHO, json={"description": None})).json()
    assert reset["description"] == "Says it again."
    assert reset["disallowed_keywords"] == ["Opera"]


@pytest.mark.requirement("mcp.admin")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"enabled": "no"}, "enabled"),
        ({"description": ""}, "description"),
        ({"description": "x" * 4097}, "description"),
        ({"disallowed_keywords": ["x"] * 101}, "disallowed_keywords"),
        ({"disallowed_keywords": [""]}, "disallowed_keywords[0]"),
        ({"disabled": True}, "disabled"),
    ],
)
async def test_what_is_wrong_with_a_switch_is_named(
    served: Served, body: dict[str, object], param: str
) -> None:
    refused = await served.admin.patch(ECHO, json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


@pytest.mark.requirement("mcp.admin")
async def test_a_switch_that_cannot_be_read_is_off(served: Served) -> None:
    await served.bus.store("$KV.tools.switch.echo", b"{")
    shown = (await served.admin.get("/v1/admin/tools")).json()["data"][1]
    while shown["enabled"]:  # the bus tells the edge
        shown = (await served.admin.get("/v1/admin/tools")).json()["data"][1]
    assert await served.names() == []
    mended = await served.admin.patch(ECHO, json={"enabled": True})
    assert mended.json()["enabled"] is True
    assert await served.names() == ["echo"]
