"""Exports and imports of conversations over HTTP: what goes out comes back the same."""

import json
import os
from typing import Any

import httpx
import msgspec
import pytest

from bus.objects import open_store
from edge.exports import KEPT
from schemas.objects import EXPORTS
from tests.support.stored import (
    Stored,
    error_of,
    items_of,
    message,
    new_conversation,
    talk,
    texts_of,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Raw(msgspec.Struct):
    """An export with its items as they were written."""

    conversation: dict[str, Any]
    branches: list[dict[str, Any]]
    items: list["RawItem"]


class RawItem(msgspec.Struct):
    branch: str
    position: int
    item: msgspec.Raw


def without_ids(body: bytes) -> tuple[Any, ...]:
    """What of an export must come back, items byte for byte but for their ids."""
    told = msgspec.json.decode(body, type=Raw)
    head = told.conversation
    return (
        {name: head[name] for name in head if name not in ("id", "created_at", "updated_at")},
        told.branches,
        [(one.branch, one.position, bytes(one.item).split(b",", 1)[1]) for one in told.items],
    )


async def rich_conversation(client: httpx.AsyncClient) -> str:
    """A conversation with branches, a deleted item, a deleted branch, and items of many kinds."""
    items = [
        message("ünïcödé \U0001f600 \\u0041 \"quoted\""),
        {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "hi", "annotations": [{"b": 1.50, "a": 10**18}]},
        ], "phase": "final", "z": {"y": [1, 2.5, None, True]}},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\": 1}"},
        {"type": "function_call_output", "call_id": "c1", "output": "``` 1"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "mcp_call", "status": "failed", "error": {"code": 5}, "name": "g"},
        message("drop me"),
        message("bye"),
    ]  # fmt: skip
    path = await new_conversation(
        client, items, title="Ä title", metadata={"k": "v", "ä": "ö"}, referrer="web"
    )
    listed = await items_of(client, path)
    await client.delete(f"{path}/items/{listed[6]['id']}")
    await client.post(f"{path}/items/{listed[0]['id']}/edit", json={"content": "first, edited"})
    body = {"name": "b", "parent_branch": "MAIN", "fork_from_item_id": listed[4]["id"]}
    await client.post(f"{path}/branches", json=body | {"description": "other"})
    await client.post(f"{path}/items", json={"items": talk(3), "branch": "b"})
    shared = (await items_of(client, path, "b"))[6]["id"]
    body = {"name": "c", "parent_branch": "b", "fork_from_item_id": shared}
    await client.post(f"{path}/branches", json=body)
    await client.post(f"{path}/items", json={"items": talk(1), "branch": "c"})
    await client.delete(f"{path}/branches/b")
    return path


@pytest.mark.requirement("conversations.import")
async def test_what_was_exported_comes_back_the_same_but_for_its_ids(
    client: httpx.AsyncClient, stored: Stored
) -> None:
    path = await rich_conversation(client)
    exported = await client.get(f"{path}/export")
    assert exported.status_code == 200
    assert exported.headers["content-type"] == "application/json"
    name = path.split("/")[2] + ".json"
    assert exported.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert "no-store" in exported.headers["cache-control"]

    other = await stored.client()
    answer = await other.post("/conversations/import", content=exported.content)
    assert answer.status_code == 200, answer.text
    (made,) = answer.json()["data"]
    assert (made["title"], made["metadata"]) == ("Ä title", {"k": "v", "ä": "ö"})
    assert made["title_locked"] is True
    copy = f"/conversations/{made['id']}"
    again = await other.get(f"{copy}/export")

    assert without_ids(again.content) == without_ids(exported.content)
    old = {one["item"]["id"] for one in exported.json()["items"]}
    new = {one["item"]["id"] for one in again.json()["items"]}
    assert len(old) == len(new) == 11
    assert not old & new

    def kept(branch: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in branch.items() if not k.startswith(("created", "forked_from"))}

    before = (await client.get(f"{path}/branches")).json()["data"]
    after = (await other.get(f"{copy}/branches")).json()["data"]
    assert sorted(map(str, map(kept, before))) == sorted(map(str, map(kept, after)))
    await other.post(f"{copy}/items", json={"items": [message("goes on")]})
    assert await texts_of(other, copy) == "first, edited goes on"


@pytest.mark.requirement("conversations.export")
async def test_a_conversation_is_exported_as_markdown_for_people(
    client: httpx.AsyncClient,
) -> None:
    path = await rich_conversation(client)
    await client.post(f"{path}/branches/MAIN/activate")
    answer = await client.get(f"{path}/export", params={"format": "markdown"})
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.headers["content-disposition"].endswith('.md"')
    assert answer.text == (
        "# Ä title\n"
        '\n## User\n\nünïcödé \U0001f600 \\u0041 "quoted"\n'
        "\n## Assistant\n\nhi\n"
        '\n**Call of `f`**\n\n```\n{"a": 1}\n```\n'
        "\n**Output of the call**\n\n````\n``` 1\n````\n"
        "\n> hm\n"
        "\n*mcp_call*\n"
        "\n## User\n\nbye\n"
    )


@pytest.mark.requirement("conversations.export")
async def test_all_conversations_are_exported_as_lines_and_come_back(stored: Stored) -> None:
    client, other = await stored.client(), await stored.client()
    await new_conversation(other, talk(1))
    paths = [await new_conversation(client, talk(n), title=f"{n}") for n in range(3)]
    paths.append(await rich_conversation(client))

    answer = await client.post("/conversations/export")

    assert answer.headers["content-type"] == "application/jsonl"
    lines = answer.content.splitlines()
    assert [json.loads(line)["conversation"]["id"] for line in lines] == [
        path.split("/")[2] for path in paths
    ]
    made = (await other.post("/conversations/import", content=answer.content)).json()["data"]
    assert [one["title"] for one in made] == ["0", "1", "2", "Ä title"]
    again = (await other.post("/conversations/export")).content.splitlines()[1:]
    assert list(map(without_ids, again)) == list(map(without_ids, lines))
    nobody = await stored.client()
    assert (await nobody.post("/conversations/export")).content == b""


@pytest.mark.requirement("conversations.export.stored")
async def test_a_stored_export_is_its_owners_alone_and_goes_after_a_day(
    stored: Stored,
) -> None:
    client, stranger = await stored.client(), await stored.client()
    for n in range(3):
        await new_conversation(client, [message(f"{n}" * (2 << 20))])
    whole = (await client.post("/conversations/export")).content

    made = await client.post("/conversations/export", params={"store": "true"})

    assert made.status_code == 201
    told = made.json()
    assert (told["object"], told["conversations"]) == ("conversations.export", 3)
    assert told["bytes"] == len(whole) > 6_000_000
    assert told["expires_at"] - told["created_at"] == 86_400
    to = told["url"].removeprefix("/v1")
    answer = await client.get(to)
    assert answer.content == whole
    assert int(answer.headers["content-length"]) == len(whole)
    assert (await stranger.get(to)).status_code == 404
    assert (await (await stored.anybody()).get(to)).status_code == 401
    missing = await client.get("/conversations/exports/exp_" + "0" * 26)
    wrong = await client.get("/conversations/exports/..%2Frequests")
    assert missing.status_code == wrong.status_code == 404

    folder = stored.data / "objects" / EXPORTS
    assert len(list(folder.iterdir())) > 2
    for file in folder.iterdir():
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - KEPT - 60))
    await open_store(stored.data / "objects").expire(EXPORTS, told["created_at"])
    assert list(folder.iterdir()) == []
    assert (await client.get(to)).status_code == 404


@pytest.mark.requirement("conversations.export")
async def test_what_is_not_ones_own_is_not_exported(
    client: httpx.AsyncClient, stored: Stored
) -> None:
    path = await new_conversation(client, talk(1))
    stranger = await stored.client()
    for form in ("json", "markdown"):
        answer = await stranger.get(f"{path}/export", params={"format": form})
        missing = await stranger.get("/conversations/conv_never/export", params={"format": form})
        assert answer.status_code == missing.status_code == 404
    assert error_of(await client.get(f"{path}/export?format=pdf")) == (400, "format")
    assert error_of(await client.post("/conversations/export?store=perhaps")) == (400, "store")


def small(**changes: Any) -> dict[str, Any]:
    return {
        "object": "conversation.export",
        "version": 1,
        "conversation": {"title": "t"},
        "branches": [{"name": "MAIN", "segments": [["MAIN", None]]}],
        "items": [{"branch": "MAIN", "position": 0, "item": message("hi")}],
    } | changes


def with_items(*items: tuple[str, int, Any]) -> dict[str, Any]:
    return small(items=[{"branch": b, "position": p, "item": item} for b, p, item in items])


def with_branches(*branches: tuple[str, Any]) -> dict[str, Any]:
    return small(branches=[{"name": name, "segments": segments} for name, segments in branches])


WHOLE = ("MAIN", [["MAIN", None]])
HI = message("hi")
WRONG: list[tuple[Any, str]] = [
    ({}, "object"),
    (small(object="list"), "object"),
    (small(version=2), "version"),
    (small(conversation={"title": "x" * 257}), "conversation.title"),
    (small(conversation={"metadata": {"k": "x" * 513}}), "conversation.metadata.k"),
    (small(conversation={"active_branch": "never"}), "conversation.active_branch"),
    (with_branches(), "branches"),
    (with_branches(("b", [["b", None]])), "branches"),
    (with_branches(("MAIN", [["MAIN", 5]])), "branches[0].segments"),
    (with_branches(WHOLE, WHOLE), "branches[1].name"),
    (with_branches(("MAIN", [["a", 5], ["b", 5], ["MAIN", None]])), "branches[0].segments"),
    (with_items(("x", 0, HI)), "items[0].branch"),
    (with_items(("MAIN", 0, HI), ("MAIN", 0, HI)), "items[1].position"),
    (with_items(("MAIN", -1, HI)), "items[0].position"),
    (with_items(("MAIN", 0, {"type": "x"})), "items[0].item.type"),
    (with_items(("MAIN", 0, message("", "king"))), "items[0].item.role"),
]


@pytest.mark.requirement("conversations.import")
async def test_what_is_wrong_with_an_import_is_named_and_nothing_of_it_is_made(
    stored: Stored,
) -> None:
    client = await stored.client()
    good = json.dumps(small())
    for body, param in WRONG:
        assert error_of(await client.post("/conversations/import", json=body)) == (400, param)
        lines = f"{good}\n{json.dumps(body)}\n"
        answer = await client.post("/conversations/import", content=lines)
        assert error_of(answer)[0] == 400
        assert answer.json()["error"]["message"].startswith("line 2: ")
    for body in ("", "[]", "{", f"{good}\nnonsense", good + "\n" + good[:-5]):
        assert (await client.post("/conversations/import", content=body)).status_code == 400
    many = "\n".join([good] * 1001)
    assert (await client.post("/conversations/import", content=many)).status_code == 400
    assert (await client.get("/conversations")).json()["data"] == []
    pretty = json.dumps(small(), indent=2)
    assert (await client.post("/conversations/import", content=pretty)).status_code == 200


@pytest.mark.requirement("conversations.import")
async def test_a_large_import_comes_in_pieces_and_with_a_key_only_once(stored: Stored) -> None:
    client = await stored.client()
    items = [
        {"branch": "MAIN", "position": 2 * n, "item": message(f"{n} " + "x" * 1500)}
        for n in range(1000)
    ]
    headers = {"idempotency-key": "import-1"}
    body = json.dumps(small(items=items))
    first = await client.post("/conversations/import", content=body, headers=headers)
    assert first.status_code == 200, first.text
    again = await client.post("/conversations/import", content=body, headers=headers)
    assert again.json() == first.json()
    assert len((await client.get("/conversations")).json()["data"]) == 1
    path = "/conversations/" + first.json()["data"][0]["id"]
    assert (await client.get(f"{path}/branches/MAIN")).json()["item_count"] == 1000
    exported = json.loads((await client.get(f"{path}/export")).content)
    assert [one["position"] for one in exported["items"]] == list(range(0, 2000, 2))
    other = await client.post("/conversations/import", json=small(), headers=headers)
    assert other.status_code == 409
