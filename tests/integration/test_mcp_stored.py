"""Conversations as resources and prompt templates as prompts of /mcp: each user's own only."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, MCPError
from mcp_types import INVALID_PARAMS, ImageContent, ResourceLink, TextContent, TextResourceContents

from tests.support.mcp import OLD, mcp_client, versions
from tests.support.postgres import PostgresServer
from tests.support.stored import Stored, message, new_conversation, running_stored


@pytest.fixture
async def stored(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Stored]:
    async with running_stored(postgres, tmp_path) as stored:
        yield stored


def to_mcp(stored: Stored, user: httpx.AsyncClient, version: str) -> Any:
    """The MCP client of a user."""
    return mcp_client(stored.url, user.headers["authorization"].removeprefix("Bearer "), version)


async def read(client: Client, uri: str) -> str:
    """A resource's text."""
    (contents,) = (await client.read_resource(uri)).contents
    assert isinstance(contents, TextResourceContents)
    assert contents.mime_type == "text/markdown"
    return contents.text


@pytest.mark.requirement("mcp.resources")
@versions
async def test_a_users_conversations_are_resources_to_that_user_only(
    stored: Stored, version: str
) -> None:
    mine, other = await stored.client(), await stored.client()
    said = [message("What is a fugue?"), message("Voices in flight.", "assistant")]
    path = await new_conversation(mine, said)
    await mine.patch(path, json={"title": "Music"})
    uri = "jan:/" + path
    async with to_mcp(stored, mine, version) as client:
        (resource,) = (await client.list_resources()).resources
        assert (resource.uri, resource.title) == (uri, "Music")
        text = await read(client, uri)
        template, _ = (await client.list_resource_templates()).resource_templates
    assert text == "# Music\n\n## User\n\nWhat is a fugue?\n\n## Assistant\n\nVoices in flight.\n"
    assert template.uri_template == "jan://conversations/{id}"
    async with to_mcp(stored, other, version) as client:
        assert (await client.list_resources()).resources == []
        refusals = []
        for missing in (uri, "jan://conversations/conv_nothing"):
            with pytest.raises(MCPError) as refused:
                await client.read_resource(missing)
            refusals.append((refused.value.code, refused.value.message))
    code = -32002 if version == OLD else INVALID_PARAMS
    assert refusals == [(code, "there is no such resource")] * 2


@pytest.mark.requirement("mcp.resources")
async def test_resources_are_listed_page_by_page(stored: Stored) -> None:
    user = await stored.client()
    paths = [await new_conversation(user, []) for _ in range(52)]
    async with to_mcp(stored, user, OLD) as client:
        first = await client.list_resources()
        rest = await client.list_resources(cursor=first.next_cursor)
        found = [resource.uri for resource in (*first.resources, *rest.resources)]
        for cursor in ("", "x" * 200, "conv_nothing"):
            with pytest.raises(MCPError) as refused:
                await client.list_resources(cursor=cursor)
            assert refused.value.code == INVALID_PARAMS
    assert len(first.resources) == 50
    assert rest.next_cursor is None
    assert found == ["jan:/" + path for path in reversed(paths)]


@pytest.mark.requirement("mcp.resources")
@pytest.mark.parametrize(
    "uri", ["jan://conversations/", "jan://other/1", "file:///etc/passwd", "jan://conversations/\0"]
)
async def test_what_is_no_resource_is_missing(stored: Stored, uri: str) -> None:
    async with to_mcp(stored, await stored.client(), OLD) as client:
        with pytest.raises(MCPError) as refused:
            await client.read_resource(uri)
    assert refused.value.code == -32002


@pytest.mark.requirement("mcp.prompts")
@versions
async def test_a_users_templates_are_prompts_to_that_user_only(
    stored: Stored, version: str
) -> None:
    mine, other = await stored.client(), await stored.client()
    picture = "data:image/png;base64,AAAA"
    parts = [
        {"type": "text", "text": "In {{city}}"},
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "image_url", "image_url": {"url": "https://example.com/map.png"}},
    ]
    made = await mine.post(
        "/prompts",
        json={
            "name": "weather",
            "description": "Asks for the weather.",
            "messages": [
                {"role": "system", "content": "Be {{mood}}."},
                {"role": "user", "content": parts},
                {"role": "assistant", "content": "Sunny."},
            ],
            "variables": {"mood": {"default": "brief", "description": "How to be."}},
        },
    )
    assert made.status_code == 201, made.text
    async with to_mcp(stored, mine, version) as client:
        (prompt,) = (await client.list_prompts()).prompts
        filled = await client.get_prompt("weather", {"city": "Rome"})
        with pytest.raises(MCPError, match="city") as lacking:
            await client.get_prompt("weather")
        with pytest.raises(MCPError, match="colour"):
            await client.get_prompt("weather", {"city": "Rome", "colour": "red"})
    assert (prompt.name, prompt.description) == ("weather", "Asks for the weather.")
    assert [(one.name, one.required, one.description) for one in prompt.arguments or ()] == [
        ("city", True, None),
        ("mood", False, "How to be."),
    ]
    assert [(one.role, one.content) for one in filled.messages] == [
        ("user", TextContent(text="Be brief.")),
        ("user", TextContent(text="In Rome")),
        ("user", ImageContent(mime_type="image/png", data="AAAA")),
        ("user", ResourceLink(uri="https://example.com/map.png", name="image")),
        ("assistant", TextContent(text="Sunny.")),
    ]
    assert lacking.value.code == INVALID_PARAMS
    async with to_mcp(stored, other, version) as client:
        assert (await client.list_prompts()).prompts == []
        for name in ("weather", "nothing", "x" * 65, "\0"):
            with pytest.raises(MCPError) as refused:
                await client.get_prompt(name, {"city": "Rome"})
            assert refused.value.code == INVALID_PARAMS
