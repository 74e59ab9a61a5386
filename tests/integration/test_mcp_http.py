"""Who may ask /mcp, and what of HTTP and of the protocol it takes or refuses in which words."""

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from mcp import MCPError
from mcp_types import INVALID_PARAMS

from tests.support.mcp import (
    ACCEPTED,
    NEW,
    OLD,
    become_guest,
    headers,
    mcp_client,
    request,
    versions,
)
from tests.support.mcp_edge import Mcp, serving_mcp


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
    async with serving_mcp(tmp_path, **told) as served, served.http() as client:
        answer = await client.get("/.well-known/oauth-protected-resource/mcp")
    assert answer.json()["resource"] == "https://jan.example.com/mcp"
    assert answer.json()["authorization_servers"] == ["https://id.example.com"]


@pytest.mark.requirement("mcp.auth")
async def test_limits_hold_here_too(tmp_path: Path) -> None:
    async with (
        serving_mcp(tmp_path, guest_rpm=1) as served,
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


async def status(client: httpx.AsyncClient, **more: str) -> int:
    """How a list of tools is answered that is asked for with more headers."""
    told = headers("tools/list", **more)
    return (await client.post("/mcp", json=request("tools/list"), headers=told)).status_code


@pytest.mark.requirement("mcp.origin")
async def test_pages_of_elsewhere_may_not_call(served: Mcp) -> None:
    token = await served.key()
    async with served.http(token) as client:
        assert await status(client) == 200
        assert await status(client, origin=served.url) == 200
        assert await status(client, host="jan.example.com", origin="https://jan.example.com") == 200
        assert await status(client, origin="https://evil.example.com") == 403
        assert await status(client, origin="null") == 403


@pytest.mark.requirement("mcp.origin")
async def test_the_operator_says_which_hosts_and_pages_are_good(tmp_path: Path) -> None:
    told = {"mcp_hosts": "jan.example.com, other:8080", "cors_origins": "https://app.example.com"}
    async with serving_mcp(tmp_path, **told) as served, served.http(await served.key()) as client:
        assert await status(client) == 421
        assert await status(client, host="jan.example.com:443") == 200
        assert await status(client, host="other:8080") == 200
        assert await status(client, host="other:80") == 421
        assert await status(client, host="other:8080", origin="https://app.example.com") == 200
