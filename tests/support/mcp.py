"""The MCP SDK's own client against a real edge, in both versions of the protocol."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

OLD: Final = "2025-11-25"
NEW: Final = "2026-07-28"
VERSIONS: Final = (OLD, NEW)
versions = pytest.mark.parametrize("version", VERSIONS)
ACCEPTED: Final = "application/json, text/event-stream"


async def become_guest(url: str) -> str:
    """The access token of a new guest of the server at `url`."""
    async with httpx.AsyncClient(base_url=url) as client:
        answer = await client.post("/auth/guest")
    return str(answer.json()["access_token"])


@asynccontextmanager
async def mcp_client(
    url: str, token: str, version: str = NEW, path: str = "/mcp"
) -> AsyncIterator[Client]:
    """The SDK's client with a credential; it speaks one version."""
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=60) as http,
        Client(
            streamable_http_client(url + path, http_client=http),
            mode="legacy" if version == OLD else version,
        ) as client,
    ):
        yield client


def request(method: str, **params: Any) -> dict[str, Any]:
    """A request as it is written in the new version."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": NEW,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta, **params}}


def headers(method: str, name: str = "", **more: str) -> dict[str, str]:
    """The headers that go with it; in `more` an underscore stands for a dash."""
    told = {"accept": ACCEPTED, "mcp-protocol-version": NEW, "mcp-method": method}
    named = {"mcp-name": name} if name else {}
    return told | named | {key.replace("_", "-"): value for key, value in more.items()}
