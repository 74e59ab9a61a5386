"""/mcp of a whole server: a guest finds and calls what it has."""

import base64
import shutil
from collections.abc import Iterator
from typing import Any, Final

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import BlobResourceContents, ResourceLink, TextResourceContents

from cli.launch import LaunchedServer
from tests.support.mcp import VERSIONS, become_guest, mcp_client, versions
from tests.support.server import running_server

ARGUMENTS: Final[dict[str, dict[str, Any]]] = {
    "web_search": {"q": "fugue"},
    "web_fetch": {"url": "http://169.254.169.254/"},
    "python_exec": {"code": "print(1)"},
}


@pytest.fixture(scope="module")
def searching() -> Iterator[LaunchedServer]:
    """A server whose search makes its results up."""
    with running_server(env={"JAN_SEARCH_STUB": "true"}) as server:
        yield server


def root_of(server: LaunchedServer) -> str:
    """The server's address without /v1."""
    return server.url.removesuffix("/v1")


@pytest.mark.requirement("mcp.list", "mcp.call", "mcp.auth")
@pytest.mark.parametrize("path", ["/mcp", "/v1/mcp"])
@versions
async def test_a_guest_calls_every_tool(searching: LaunchedServer, version: str, path: str) -> None:
    url = root_of(searching)
    async with mcp_client(url, await become_guest(url), version, path) as client:
        listed = (await client.list_tools()).tools
        results = {
            tool.name: await client.call_tool(tool.name, ARGUMENTS.get(tool.name, {}))
            for tool in listed
        }
    assert {"web_search", "web_fetch"} <= set(results)
    found = results["web_search"]
    assert not found.is_error
    assert found.structured_content["results"][0]["url"].startswith("https://example.com/")
    assert results["web_fetch"].is_error  # an address of the inside
    assert all(result.content for result in results.values())


@pytest.mark.requirement("mcp.versions")
async def test_a_client_that_asks_which_versions_there_are_takes_the_newest(
    searching: LaunchedServer,
) -> None:
    url = root_of(searching)
    told = {"authorization": f"Bearer {await become_guest(url)}"}
    async with (
        httpx2.AsyncClient(headers=told) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
    ):
        assert client.protocol_version == VERSIONS[-1]
        assert client.server_info is not None
        assert client.server_info.name == "jan-server"


WRITING: Final = """
open("table.csv", "w").write("a,b")
open("plot.png", "wb").write(bytes([137, 80, 78, 71, 255]))
open("large.bin", "wb").write(bytes(5 << 20))
"""


@pytest.mark.requirement("mcp.files")
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="code runs in a sandbox only")
@versions
async def test_files_of_a_call_are_linked_and_read_by_their_owner_only(
    searching: LaunchedServer, version: str
) -> None:
    url = root_of(searching)
    async with mcp_client(url, await become_guest(url), version) as client:
        result = await client.call_tool("python_exec", {"code": WRITING})
        links = {one.name: one for one in result.content if isinstance(one, ResourceLink)}
        assert set(links) == {"table.csv", "plot.png", "large.bin"}
        assert (links["table.csv"].mime_type, links["table.csv"].size) == ("text/csv", 3)
        (table,) = (await client.read_resource(links["table.csv"].uri)).contents
        (plot,) = (await client.read_resource(links["plot.png"].uri)).contents
        assert isinstance(table, TextResourceContents)
        assert table.text == "a,b"
        assert isinstance(plot, BlobResourceContents)
        assert base64.b64decode(plot.blob) == b"\x89PNG\xff"
        with pytest.raises(MCPError) as large:
            await client.read_resource(links["large.bin"].uri)
        assert "'params.uri': the file has more than" in large.value.message
    async with mcp_client(url, await become_guest(url), version) as other:
        with pytest.raises(MCPError) as missing:
            await other.read_resource(links["table.csv"].uri)
    assert missing.value.message == "there is no such resource"


@pytest.mark.requirement("mcp.hints")
@versions
async def test_tools_say_what_is_known_of_their_effects(
    searching: LaunchedServer, version: str
) -> None:
    url = root_of(searching)
    async with mcp_client(url, await become_guest(url), version) as client:
        listed = (await client.list_tools()).tools
    hints = {tool.name: tool.annotations for tool in listed}
    search, index = hints["web_search"], hints["file_search_index"]
    assert search is not None
    assert index is not None
    assert (search.title, search.read_only_hint, search.open_world_hint) == (
        *("Search the web", True, True),
    )
    assert (index.read_only_hint, index.destructive_hint, index.idempotent_hint) == (
        *(False, True, True),
    )
    assert index.open_world_hint is False
