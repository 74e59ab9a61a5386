"""Shares over HTTP: what their owners do with them, and what everybody else sees of them."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.postgres import PostgresServer
from tests.support.stored import (
    Stored,
    error_of,
    items_of,
    message,
    new_conversation,
    running_stored,
    talk,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stored(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stored]:
    async with running_stored(
        postgres, tmp_path_factory.mktemp("shares"), share_reads=1000
    ) as stored:
        yield stored


@pytest_asyncio.fixture(loop_scope="module")
async def reader(stored: Stored) -> httpx.AsyncClient:
    return await stored.anybody()


async def share(client: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    answer = await client.post(f"{path}/share", json={"scope": "conversation", **body})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def read(reader: httpx.AsyncClient, shared: dict[str, Any]) -> dict[str, Any]:
    answer = await reader.get(f"/public/shares/{shared['slug']}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def said(public: dict[str, Any]) -> list[tuple[str, str]]:
    items = public["snapshot"]["items"]
    return [(item["role"], item["content"][0]["text"]) for item in items]


@pytest.mark.requirement("conversations.shares")
async def test_everybody_reads_what_was_shared_as_it_was_then(
    client: httpx.AsyncClient, reader: httpx.AsyncClient
) -> None:
    path = await new_conversation(client, talk(2), title="Demo")

    shared = await share(client, path)
    await client.post(f"{path}/items", json={"items": [message("later")]})
    await client.patch(path, json={"title": "Later"})

    assert shared["object"] == "conversation.share"
    assert re.fullmatch("[0-9A-Za-z]{22}", shared["slug"])
    assert shared["share_url"] == f"/v1/public/shares/{shared['slug']}"
    assert (shared["visibility"], shared["revoked_at"]) == ("unlisted", None)
    assert shared["share_options"] == {
        "include_images": False,
        "include_context_messages": False,
        "branch": "MAIN",
    }
    public = await read(reader, shared)
    assert (public["object"], public["title"]) == ("public_share", "Demo")
    assert (public["slug"], public["created_at"]) == (shared["slug"], shared["created_at"])
    assert said(public) == [("user", "0"), ("assistant", "1")]


@pytest.mark.requirement("conversations.shares")
async def test_a_share_is_cached_only_with_a_question_each_time(
    client: httpx.AsyncClient, reader: httpx.AsyncClient
) -> None:
    shared = await share(client, await new_conversation(client, talk(2)))
    to = f"/public/shares/{shared['slug']}"
    whole = await reader.get(to)
    assert whole.headers["cache-control"] == "no-cache"
    assert whole.headers["x-robots-tag"] == "noindex"
    head = await reader.head(to)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]
    known = await reader.get(to, headers={"if-none-match": whole.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    assert (await reader.post(to)).status_code == 405


@pytest.mark.requirement("conversations.shares.private")
async def test_a_share_shows_messages_and_nothing_of_its_owner(
    client: httpx.AsyncClient, reader: httpx.AsyncClient
) -> None:
    secret = "HIDDEN"
    project_items = [
        message(secret, "system"),
        message(secret, "developer"),
        {**message("hello"), "metadata": {"secret": secret}, "user": secret},
        {"type": "function_call", "call_id": secret, "name": secret, "arguments": "{}"},
        {"type": "function_call_output", "call_id": secret, "output": secret},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": secret}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "hi", "annotations": [{"file_id": secret}]},
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": f"https://x/{secret}"},
                {"type": "input_file", "file_id": secret, "filename": secret},
            ],
        },
    ]
    path = await new_conversation(
        client, project_items, metadata={secret: secret}, referrer=secret, title="t"
    )
    me = await client.get(path)
    shared = await share(client, path)

    answer = await reader.get(f"/public/shares/{shared['slug']}")

    everything = answer.text + json.dumps(dict(answer.headers))
    assert secret not in everything
    for owned in (path.split("/")[2], shared["id"], me.headers["x-principal-id"], "msg_"):
        assert owned not in everything
    assert "x-principal-id" not in answer.headers
    assert answer.json()["snapshot"]["items"] == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "hi"},
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "look"}]},
    ]
    with_images = await read(reader, await share(client, path, include_images=True))
    assert with_images["snapshot"]["items"][2]["content"][1] == {
        "type": "input_image",
        "image_url": f"https://x/{secret}",
    }


@pytest.mark.requirement("conversations.shares")
async def test_one_message_is_shared_alone_or_with_the_question_before_it(
    client: httpx.AsyncClient, reader: httpx.AsyncClient
) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    path = await new_conversation(client, [*talk(3), call, message("3", "assistant")])
    items = await items_of(client, path)
    last = {"scope": "item", "item_id": items[4]["id"]}

    alone = await share(client, path, **last, title="Mine")
    assert (alone["scope"], alone["item_id"]) == ("item", items[4]["id"])
    assert said(await read(reader, alone)) == [("assistant", "3")]
    assert (await read(reader, alone))["title"] == "Mine"
    both = await share(client, path, **last, include_context_messages=True)
    assert said(await read(reader, both)) == [("user", "2"), ("assistant", "3")]

    async def refused(**body: Any) -> tuple[int, str | None]:
        return error_of(await client.post(f"{path}/share", json=body))

    assert await refused(scope="item") == (400, "item_id")
    assert await refused(scope="item", item_id=items[3]["id"]) == (400, "item_id")
    assert await refused(scope="item", item_id="msg_never") == (404, "item_id")
    assert await refused(scope="everything") == (400, "scope")
    assert await refused() == (400, "scope")
    assert await refused(scope="conversation", branch="never") == (404, "branch")
    assert await refused(scope="conversation", title="x" * 257) == (400, "title")
    empty = await new_conversation(client, [])
    answer = await client.post(f"{empty}/share", json={"scope": "conversation"})
    assert error_of(answer) == (400, "scope")


@pytest.mark.requirement("conversations.shares")
async def test_a_branch_is_shared_without_what_only_others_have(
    client: httpx.AsyncClient, reader: httpx.AsyncClient
) -> None:
    path = await new_conversation(client, talk(4))
    items = await items_of(client, path)
    await client.post(f"{path}/items/{items[2]['id']}/edit", json={"content": "edited"})
    active = await share(client, path)
    main = await share(client, path, branch="MAIN")
    assert [text for _, text in said(await read(reader, active))] == ["0", "1", "edited"]
    assert [text for _, text in said(await read(reader, main))] == ["0", "1", "2", "3"]


@pytest.mark.requirement("conversations.shares")
async def test_a_revoked_share_is_gone_and_the_others_stay(
    client: httpx.AsyncClient, reader: httpx.AsyncClient, stored: Stored
) -> None:
    path = await new_conversation(client, talk(2))
    first, second = await share(client, path), await share(client, path)
    stranger = await stored.client()
    for to in (f"/shares/{first['id']}", f"{path}/shares/{first['id']}"):
        assert (await stranger.delete(to)).status_code == 404
    other = await new_conversation(client, talk(2))
    assert (await client.delete(f"{other}/shares/{first['id']}")).status_code == 404

    for _ in range(2):  # to revoke it again is no harm
        gone = await client.delete(f"{path}/shares/{first['id']}")
        assert gone.json() == {
            "id": first["id"],
            "object": "conversation.share.deleted",
            "deleted": True,
        }

    answer = await reader.get(f"/public/shares/{first['slug']}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "gone")
    assert (await reader.get("/public/shares/" + "x" * 22)).status_code == 404
    assert (await reader.get("/public/shares/x")).status_code == 404
    assert (await reader.get(f"/public/shares/{second['slug']}")).status_code == 200

    async def listed(to: str, **query: Any) -> list[str]:
        page = (await client.get(to, params=query)).json()
        assert page["object"] == "list"
        return [one["id"] for one in page["data"]]

    assert await listed("/shares") == [second["id"]]
    assert await listed(f"{path}/shares") == [second["id"]]
    assert await listed(f"{other}/shares") == []
    both = [second["id"], first["id"]]
    assert await listed("/shares", include_revoked="true") == both
    assert await listed(f"{path}/shares", include_revoked="1", limit=1) == both[:1]
    assert await listed("/shares", include_revoked="true", after=both[0]) == both[1:]
    assert error_of(await client.get("/shares?after=shr_never")) == (400, "after")
    assert error_of(await client.get("/shares?include_revoked=maybe")) == (400, "include_revoked")
    assert (await stranger.get(f"{path}/shares")).status_code == 404
    assert (await stranger.get("/shares")).json()["data"] == []
    assert (await client.delete(f"/shares/{second['id']}")).status_code == 200


@pytest.mark.requirement("conversations.shares")
async def test_a_deleted_conversation_takes_its_shares_with_it(
    client: httpx.AsyncClient, reader: httpx.AsyncClient
) -> None:
    one, two = [await new_conversation(client, talk(2)) for _ in range(2)]
    shared = [await share(client, one), await share(client, two)]
    await client.delete(one)
    assert (await reader.get(f"/public/shares/{shared[0]['slug']}")).status_code == 410
    assert (await reader.get(f"/public/shares/{shared[1]['slug']}")).status_code == 200
    await client.delete("/conversations")
    assert (await reader.get(f"/public/shares/{shared[1]['slug']}")).status_code == 410
    assert (await client.get("/shares?include_revoked=true")).json()["data"] == []


@pytest.mark.requirement("conversations.shares")
async def test_a_snapshot_has_a_largest_size(
    client: httpx.AsyncClient, reader: httpx.AsyncClient
) -> None:
    path = await new_conversation(client, [message("x" * (3 * MIB - 1000))])
    more = {"items": [message("y" * (3 * MIB - 1000), "assistant")]}
    assert (await client.post(f"{path}/items", json=more)).status_code == 200
    public = await read(reader, await share(client, path))
    assert len(public["snapshot"]["items"]) == 2

    await client.post(f"{path}/items", json={"items": [message("z" * 2000)]})
    refused = await client.post(f"{path}/share", json={"scope": "conversation"})
    assert error_of(refused) == (400, "scope")
    assert "6 MiB" in refused.json()["error"]["message"]
    for _ in range(9):
        assert (await client.post(f"{path}/items", json=more)).status_code == 200
    refused = await client.post(f"{path}/share", json={"scope": "conversation"})
    assert error_of(refused) == (400, "scope")


@pytest.mark.requirement("conversations.shares.limits")
async def test_readers_without_a_credential_are_held_to_a_rate(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with running_stored(postgres, tmp_path, share_reads=3) as stored:
        reader = await stored.anybody()
        answers = [await reader.get("/public/shares/" + "x" * 22) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [404, 404, 404, 429]
        assert answers[3].json()["error"]["code"] == "too_many_reads"
        assert 0 < int(answers[3].headers["retry-after"]) <= 60
