"""Branches, edits, calls of tools and deletions of conversations, over HTTP."""

import asyncio
from typing import Any

import httpx
import pytest

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


@pytest.mark.requirement("conversations.branches")
async def test_a_branch_shares_what_came_before_it_and_nothing_after(
    client: httpx.AsyncClient,
) -> None:
    path = await new_conversation(client, talk(4))
    items = await items_of(client, path)

    body = {"name": "other", "fork_from_item_id": items[1]["id"], "description": "another way"}
    made = await client.post(f"{path}/branches", json=body)

    assert made.status_code == 201
    branch = made.json()
    assert (branch["name"], branch["object"]) == ("other", "conversation.branch")
    assert (branch["parent_branch"], branch["forked_from_item_id"]) == ("MAIN", items[1]["id"])
    assert (branch["item_count"], branch["is_active"]) == (2, False)
    assert (await client.get(f"{path}/branches/other")).json() == branch

    more = {"items": [message("on other")], "branch": "other"}
    assert (await client.post(f"{path}/items", json=more)).status_code == 200
    assert (await client.post(f"{path}/items", json={"items": [message("4")]})).status_code == 200
    assert await texts_of(client, path, "other") == "0 1 on other"
    assert await texts_of(client, path) == "0 1 2 3 4"
    assert (await items_of(client, path, "other"))[:2] == items[:2], "the very same items"

    listed = (await client.get(f"{path}/branches")).json()
    assert listed["object"] == "list"
    assert [(one["name"], one["item_count"]) for one in listed["data"]] == [
        ("MAIN", 5),
        ("other", 3),
    ]


@pytest.mark.requirement("conversations.branches")
async def test_an_active_branch_is_what_is_shown_and_appended_to(
    client: httpx.AsyncClient,
) -> None:
    path = await new_conversation(client, talk(2))
    await client.post(f"{path}/branches", json={"name": "b"})

    told = (await client.post(f"{path}/branches/b/activate")).json()
    assert told["active_branch"] == "b"
    assert told["message"]
    await client.post(f"{path}/items", json={"items": [message("2")]})

    assert await texts_of(client, path) == "0 1 2"
    assert await texts_of(client, path, "MAIN") == "0 1"
    assert (await client.get(path)).json()["active_branch"] == "b"


@pytest.mark.requirement("conversations.branches")
async def test_a_deleted_branch_takes_with_it_what_only_it_had(client: httpx.AsyncClient) -> None:
    path = await new_conversation(client, talk(2))
    await client.post(f"{path}/branches", json={"name": "b"})
    await client.post(f"{path}/items", json={"items": talk(4)[2:], "branch": "b"})
    b = await items_of(client, path, "b")
    body = {"name": "c", "parent_branch": "b", "fork_from_item_id": b[2]["id"]}
    await client.post(f"{path}/branches", json=body)
    await client.post(f"{path}/items", json={"items": [message("c")], "branch": "c"})

    gone = await client.delete(f"{path}/branches/b")
    assert (gone.status_code, gone.content) == (204, b"")

    assert (await client.get(f"{path}/branches/b")).status_code == 404
    assert await texts_of(client, path, "c") == "0 1 2 c", "c keeps what it shares with b"
    assert (await client.get(f"{path}/items/{b[2]['id']}")).status_code == 200
    assert (await client.get(f"{path}/items/{b[3]['id']}")).status_code == 404
    assert (await client.get(f"{path}/items", params={"branch": "b"})).status_code == 404

    taken = await client.post(f"{path}/branches", json={"name": "b"})
    assert error_of(taken) == (409, "name"), "c still has items of it"
    assert (await client.delete(f"{path}/branches/c")).status_code == 204
    assert (await client.get(f"{path}/items/{b[2]['id']}")).status_code == 404
    assert (await client.post(f"{path}/branches", json={"name": "b"})).status_code == 201
    assert await texts_of(client, path, "b") == "0 1"
    assert await texts_of(client, path) == "0 1"


@pytest.mark.requirement("conversations.branches")
async def test_the_main_and_the_active_branch_can_not_be_deleted(
    client: httpx.AsyncClient,
) -> None:
    path = await new_conversation(client, talk(2))
    await client.post(f"{path}/branches", json={"name": "b"})
    assert error_of(await client.delete(f"{path}/branches/MAIN")) == (400, "name")
    await client.post(f"{path}/branches/b/activate")
    assert error_of(await client.delete(f"{path}/branches/b")) == (400, "name")
    assert (await client.delete(f"{path}/branches/MAIN")).status_code == 400
    assert (await client.delete(f"{path}/branches/never")).status_code == 404


@pytest.mark.requirement("conversations.branches")
async def test_what_is_wrong_with_a_branch_is_named(
    client: httpx.AsyncClient, stored: Stored
) -> None:
    path = await new_conversation(client, talk(2))
    branches = f"{path}/branches"
    for body, status, param in (
        ({}, 400, "name"),
        ({"name": ""}, 400, "name"),
        ({"name": "a b"}, 400, "name"),
        ({"name": "x" * 65}, 400, "name"),
        ({"name": "MAIN"}, 409, "name"),
        ({"name": "n", "description": "x" * 513}, 400, "description"),
        ({"name": "n", "parent_branch": "never"}, 404, "branch"),
        ({"name": "n", "fork_from_item_id": "msg_never"}, 404, None),
    ):
        assert error_of(await client.post(branches, json=body)) == (status, param), body
    assert (await client.post(f"{branches}/never/activate")).status_code == 404
    stranger = await stored.client()
    for method, to in (
        ("GET", branches),
        ("POST", branches),
        ("GET", f"{branches}/MAIN"),
        ("DELETE", f"{branches}/MAIN"),
        ("POST", f"{branches}/MAIN/activate"),
    ):
        answer = await stranger.request(method, to, json={"name": "n"})
        missing = await stranger.request(
            method, to.replace(path, "/conversations/conv_never"), json={"name": "n"}
        )
        assert answer.status_code == missing.status_code == 404
        id_ = path.removeprefix("/conversations/")
        told = answer.json()["error"]["message"].replace(id_, "conv_never")
        assert told == missing.json()["error"]["message"]


@pytest.mark.requirement("conversations.branches.bounds")
async def test_a_conversation_has_a_hundred_branches_and_no_more(
    client: httpx.AsyncClient,
) -> None:
    names = ["MAIN", *[f"b{number}" for number in range(1, 97)]]
    exported = {
        "object": "conversation.export",
        "version": 1,
        "conversation": {},
        "branches": [
            {"name": name, "segments": [*[[names[n], n] for n in range(depth)], [name, None]]}
            for depth, name in enumerate(names)
        ],
        "items": [
            {"branch": name, "position": n, "item": message(f"{n}")} for n, name in enumerate(names)
        ],
    }
    made = await client.post("/conversations/import", json=exported)
    path = "/conversations/" + made.json()["data"][0]["id"]
    for number in range(97, 100):  # each forked from the one before: as deep as it gets
        body = {"name": f"b{number}", "parent_branch": f"b{number - 1}"}
        assert (await client.post(f"{path}/branches", json=body)).status_code == 201
        more = {"items": [message(f"{number}")], "branch": f"b{number}"}
        assert (await client.post(f"{path}/items", json=more)).status_code == 200

    full = await client.post(f"{path}/branches", json={"name": "more"})
    assert error_of(full) == (400, "name")
    assert "at most 100 branches" in full.json()["error"]["message"]
    assert await texts_of(client, path, "b99") == " ".join(map(str, range(100)))

    await client.delete(f"{path}/branches/b50")  # the others keep what they share with it
    assert await texts_of(client, path, "b99") == " ".join(map(str, range(100)))
    deep = await client.post(f"{path}/branches", json={"name": "deep", "parent_branch": "b99"})
    assert error_of(deep) == (400, "parent_branch")
    assert (await client.post(f"{path}/branches", json={"name": "flat"})).status_code == 201


@pytest.mark.requirement("conversations.edit")
async def test_an_edit_keeps_the_old_message_on_its_branch(client: httpx.AsyncClient) -> None:
    path = await new_conversation(client, talk(4))
    items = await items_of(client, path)

    body = {"content": "two, edited", "regenerate": True}
    answer = await client.post(f"{path}/items/{items[2]['id']}/edit", json=body)

    assert answer.status_code == 200
    told = answer.json()
    assert told["branch_created"] is True
    assert told["old_main_backup"] is None
    assert told["branch"] == told["new_branch"]
    assert told["user_item"]["role"] == "user"
    assert told["user_item"]["content"] == [{"type": "input_text", "text": "two, edited"}]
    assert (await client.get(path)).json()["active_branch"] == told["new_branch"]
    assert await texts_of(client, path) == "0 1 two, edited"
    assert await texts_of(client, path, "MAIN") == "0 1 2 3"
    branch = (await client.get(f"{path}/branches/{told['new_branch']}")).json()
    assert (branch["parent_branch"], branch["forked_from_item_id"]) == ("MAIN", items[1]["id"])

    again = await client.post(
        f"{path}/items/{told['user_item']['id']}/edit",
        json={"content": [{"type": "input_text", "text": "two again"}]},
    )
    assert await texts_of(client, path) == "0 1 two again"
    assert again.json()["new_branch"] != told["new_branch"]
    first = await client.post(f"{path}/items/{items[0]['id']}/edit", json={"content": "zero"})
    assert first.status_code == 200
    assert await texts_of(client, path) == "zero"


@pytest.mark.requirement("conversations.edit")
async def test_only_users_messages_of_the_branch_are_edited(client: httpx.AsyncClient) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    path = await new_conversation(client, [*talk(2), call])
    user, assistant, called = [item["id"] for item in await items_of(client, path)]

    async def edit(item: str, body: Any) -> tuple[int, str | None]:
        return error_of(await client.post(f"{path}/items/{item}/edit", json=body))

    assert await edit(assistant, {"content": "x"}) == (400, "item_id")
    assert await edit(called, {"content": "x"}) == (400, "item_id")
    assert await edit("msg_never", {"content": "x"}) == (404, None)
    assert await edit(user, {}) == (400, "content")
    assert await edit(user, {"content": 5}) == (400, "content")
    assert await edit(user, {"content": [{"type": "nonsense"}]}) == (400, "content[0].type")
    assert await edit(user, {"content": "x", "branch": "never"}) == (404, "branch")
    assert len((await client.get(f"{path}/branches")).json()["data"]) == 1


@pytest.mark.requirement("conversations.if_match")
async def test_of_concurrent_edits_of_one_version_exactly_one_wins(
    client: httpx.AsyncClient,
) -> None:
    path = await new_conversation(client, talk(2))
    item = (await items_of(client, path))[0]["id"]
    etag = (await client.get(path)).headers["etag"]
    answers = await asyncio.gather(
        *[
            client.post(
                f"{path}/items/{item}/edit", json={"content": f"{n}"}, headers={"if-match": etag}
            )
            for n in range(10)
        ]
    )
    assert sorted(answer.status_code for answer in answers) == [200, *[409] * 9]
    lost = next(answer for answer in answers if answer.status_code == 409)
    assert error_of(lost) == (409, "If-Match")
    assert len((await client.get(f"{path}/branches")).json()["data"]) == 2


@pytest.mark.requirement("conversations.if_match")
async def test_every_change_of_a_conversation_can_be_bound_to_a_version(
    client: httpx.AsyncClient,
) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    path = await new_conversation(client, [*talk(2), call])
    item = (await items_of(client, path))[0]["id"]
    await client.post(f"{path}/branches", json={"name": "b"})
    for method, to, body in (
        ("POST", "", {"title": "t"}),
        ("POST", "/items", {"items": talk(1)}),
        ("PATCH", "/items/by-call-id/c1", {"status": "completed"}),
        ("POST", f"/items/{item}/edit", {"content": "x"}),
        ("POST", "/branches", {"name": "c"}),
        ("POST", "/branches/b/activate", None),
        ("DELETE", "/branches/b", None),
        ("POST", "/share", {"scope": "conversation"}),
        ("DELETE", f"/items/{item}", None),
        ("DELETE", "", None),
    ):
        stale = await client.request(method, path + to, json=body, headers={"if-match": '"1"'})
        assert error_of(stale) == (409, "If-Match"), (method, to)
        etag = (await client.get(path)).headers["etag"]
        if (method, to) == ("DELETE", "/branches/b"):
            await client.post(f"{path}/branches/MAIN/activate")
            etag = (await client.get(path)).headers["etag"]
        done = await client.request(method, path + to, json=body, headers={"if-match": etag})
        assert done.status_code < 300, (method, to, done.text)


@pytest.mark.requirement("conversations.calls")
async def test_a_call_is_found_by_its_id_and_told_what_became_of_it(
    client: httpx.AsyncClient,
) -> None:
    call = {
        "type": "mcp_call",
        "call_id": "call_1",
        "name": "search",
        "arguments": "{}",
        "server_label": "s",
        "status": "in_progress",
    }
    path = await new_conversation(client, [*talk(1), call])
    given = (await items_of(client, path))[1]

    body = {"status": "failed", "output": "found", "error": {"code": 5}, "arguments": '{"q":1}'}
    answer = await client.patch(f"{path}/items/by-call-id/call_1", json=body)

    assert answer.status_code == 200
    assert answer.json() == given | body
    assert (await client.get(f"{path}/items/{given['id']}")).json() == given | body
    never = await client.patch(f"{path}/items/by-call-id/never", json={"status": "completed"})
    assert never.status_code == 404
    assert error_of(await client.patch(f"{path}/items/by-call-id/call_1", json={})) == (
        400,
        "status",
    )


@pytest.mark.requirement("conversations.calls")
async def test_a_call_is_taken_before_its_output_and_keeps_its_form(
    client: httpx.AsyncClient,
) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "1"}
    path = await new_conversation(client, [call, output])
    changed = await client.patch(f"{path}/items/by-call-id/c", json={"status": "incomplete"})
    assert (changed.json()["type"], changed.json()["status"]) == ("function_call", "incomplete")
    refused = await client.patch(f"{path}/items/by-call-id/c", json={"status": "flying"})
    assert error_of(refused) == (400, "status")
    refused = await client.patch(
        f"{path}/items/by-call-id/c", json={"status": "completed", "name": "x" * 129}
    )
    assert error_of(refused) == (400, "name")


@pytest.mark.requirement("conversations.delete_all")
async def test_all_conversations_of_the_caller_are_deleted_and_nobody_elses(
    stored: Stored,
) -> None:
    one, other = await stored.client(), await stored.client()
    kept = await new_conversation(other, talk(1))
    paths = [await new_conversation(one, talk(1)) for _ in range(3)]

    answer = await one.delete("/conversations")

    assert answer.json() == {
        "object": "conversations.deleted",
        "deleted": True,
        "deleted_count": 3,
    }
    for path in paths:
        assert (await one.get(path)).status_code == 404
        assert (await one.get(f"{path}/items")).status_code == 404
    assert (await one.get("/conversations")).json()["data"] == []
    assert await texts_of(other, kept) == "0"
    assert (await one.delete("/conversations")).json()["deleted_count"] == 0


@pytest.mark.requirement("conversations.delete_all")
async def test_more_conversations_than_fit_into_a_command_are_deleted_too(
    stored: Stored,
) -> None:
    client = await stored.client()
    at_once = asyncio.Semaphore(8)

    async def make() -> None:
        async with at_once:
            await new_conversation(client, [])

    async with asyncio.timeout(100):
        await asyncio.gather(*[make() for _ in range(101)])
    assert (await client.delete("/conversations")).json()["deleted_count"] == 101
    assert (await client.get("/conversations")).json()["data"] == []


@pytest.mark.requirement("conversations.branches")
async def test_a_branch_with_more_items_than_fit_into_a_command_is_deleted(
    client: httpx.AsyncClient,
) -> None:
    exported = {
        "object": "conversation.export",
        "version": 1,
        "conversation": {},
        "branches": [
            {"name": "MAIN", "segments": [["MAIN", None]]},
            {"name": "long", "segments": [["MAIN", 0], ["long", None]]},
        ],
        "items": [
            {"branch": "long" if n else "MAIN", "position": n, "item": message(f"{n}")}
            for n in range(2100)
        ],
    }
    made = await client.post("/conversations/import", json=exported)
    path = "/conversations/" + made.json()["data"][0]["id"]
    assert (await client.get(f"{path}/branches/long")).json()["item_count"] == 2100
    etag = (await client.get(path)).headers["etag"]

    gone = await client.delete(f"{path}/branches/long", headers={"if-match": etag})

    assert gone.status_code == 204
    assert (await client.get(f"{path}/branches/long")).status_code == 404
    whole = (await client.get(f"{path}/export")).json()
    assert [one["item"]["content"][0]["text"] for one in whole["items"]] == ["0"]
