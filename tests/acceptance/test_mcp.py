"""/mcp of a whole server: a guest finds and calls what it has."""

from collections.abc import Iterator
from typing import Any, Final

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from cli.launch import LaunchedServer
from tests.support.mcp import VERSIONS, become_guest, mcp_client
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
@pytest.mark.parametrize("version", VERSIONS)
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
