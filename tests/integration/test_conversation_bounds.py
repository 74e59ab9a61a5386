"""Conversations at their limits: concurrency, size, and what is refused by name, over HTTP."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.support.stored import (
    error_of,
    message,
    new_conversation,
    talk,
    text,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def read_all(client: httpx.AsyncClient, path: str, order: str) -> list[str]:
    texts: list[str] = []
    query: dict[str, Any] = {"order": order, "limit": 100}
    while True:
        answer = await client.get(f"{path}/items", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        texts += map(text, page["data"])
        if not page["has_more"]:
            return texts
        query["after"] = page["last_id"]


@pytest.mark.requirement("conversations.append")
async def test_of_a_hundred_concurrent_appends_none_is_lost_doubled_or_torn_apart(
    client: httpx.AsyncClient,
) -> None:
    path = await new_conversation(client, [])

    async def append(number: int) -> list[str]:
        items = [message(f"{number}.{part}") for part in range(5)]
        while True:
            answer = await client.post(f"{path}/items", json={"items": items})
            if answer.status_code == 200:
                return [text(item) for item in answer.json()["data"]]
            assert answer.json()["error"]["code"] == "unavailable", answer.text  # not done

    appended = await asyncio.gather(*[append(number) for number in range(100)])

    texts = await read_all(client, path, "asc")
    assert len(texts) == 500
    assert sorted(texts[at : at + 5] for at in range(0, 500, 5)) == sorted(appended)


@pytest.mark.requirement("conversations.append")
async def test_an_append_with_a_key_is_done_once(client: httpx.AsyncClient) -> None:
    path = await new_conversation(client, [])
    body = {"items": talk(2)}
    headers = {"idempotency-key": "append-1"}
    answers = await asyncio.gather(
        *[client.post(f"{path}/items", json=body, headers=headers) for _ in range(5)]
    )
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len({answer.content for answer in answers}) == 1
    assert await read_all(client, path, "asc") == ["0", "1"]
    other = await client.post(f"{path}/items", json={"items": talk(1)}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


@pytest.mark.requirement("conversations.large")
async def test_five_thousand_items_are_read_both_ways(client: httpx.AsyncClient) -> None:
    exported = {
        "object": "conversation.export",
        "version": 1,
        "conversation": {},
        "branches": [{"name": "MAIN", "segments": [["MAIN", None]]}],
        "items": [{"branch": "MAIN", "position": n, "item": message(f"{n}")} for n in range(5000)],
    }
    made = await client.post("/conversations/import", json=exported)
    path = "/conversations/" + made.json()["data"][0]["id"]

    wanted = [f"{n}" for n in range(5000)]
    assert await read_all(client, path, "asc") == wanted
    assert await read_all(client, path, "desc") == wanted[::-1]
    middle = (await client.get(f"{path}/items?limit=1&order=asc")).json()
    assert middle["has_more"] is True
    whole = (await client.get(f"{path}/export")).json()
    assert [text(one["item"]) for one in whole["items"]] == wanted


@pytest.mark.requirement("conversations.large")
async def test_a_message_of_a_megabyte_comes_back_whole(client: httpx.AsyncClient) -> None:
    said = "ä" * (1 << 19) + "z"
    path = await new_conversation(client, [message(said)])
    assert await read_all(client, path, "asc") == [said]
    too_much = {"items": [message("x" * (4 << 20))]}
    assert error_of(await client.post(f"{path}/items", json=too_much)) == (400, "items")
    many = {"items": [message("x" * (1 << 20)) for _ in range(4)]}
    assert error_of(await client.post(f"{path}/items", json=many)) == (400, "items")


@pytest.mark.requirement("conversations.if_match")
async def test_of_concurrent_updates_of_one_version_exactly_one_wins(
    client: httpx.AsyncClient,
) -> None:
    path = await new_conversation(client, [])
    etag = (await client.get(path)).headers["etag"]
    answers = await asyncio.gather(
        *[client.patch(path, json={"title": f"{n}"}, headers={"if-match": etag}) for n in range(10)]
    )
    assert sorted(answer.status_code for answer in answers) == [200, *[409] * 9]
    (won,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert (await client.get(path)).json() == won
    assert error_of(await client.patch(path, json={}, headers={"if-match": "x"})) == (
        400,
        "If-Match",
    )


CONVERSATIONS: list[tuple[dict[str, Any], str]] = [
    ({"title": "x" * 257}, "title"),
    ({"title": 5}, "title"),
    ({"metadata": {f"{n}": "" for n in range(17)}}, "metadata"),
    ({"metadata": {"k" * 65: ""}}, "metadata"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    ({"metadata": {"k": 5}}, "metadata.k"),
    ({"metadata": {"k": "\0"}}, "metadata.k"),
    ({"items": [message("")] * 21}, "items"),
    ({"items": [{"type": "message", "role": "user"}]}, "items[0].content"),
    ({"items": [{"type": "unheard_of"}]}, "items[0].type"),
    ({"items": [message("", "emperor")]}, "items[0].role"),
    ({"items": [message("a\0b")]}, "items[0].content"),
    (
        {"items": [{"type": "message", "role": "user", "content": [{"type": "text"}] * 101}]},
        "items[0].content",
    ),
    ({"items": [{"type": "function_call", "name": "f", "arguments": ""}]}, "items[0].call_id"),
    ({"referrer": "x" * 65}, "referrer"),
    ({"project_id": "proj_never"}, "project_id"),
]


@pytest.mark.requirement("conversations.bounds")
@pytest.mark.parametrize(("body", "param"), CONVERSATIONS)
async def test_one_beyond_a_limit_is_refused_by_name(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    assert error_of(await client.post("/conversations", json=body)) == (400, param)


@pytest.mark.requirement("conversations.bounds")
async def test_what_is_at_its_limit_is_kept(client: httpx.AsyncClient) -> None:
    body = {
        "title": "x" * 256,
        "metadata": {f"{n:02}" + "k" * 62: "v" * 512 for n in range(16)},
        "items": talk(20),
    }
    path = await new_conversation(client, **body)  # type: ignore[arg-type]
    told = (await client.get(path)).json()
    assert (told["title"], told["metadata"]) == (body["title"], body["metadata"])
    assert len(await read_all(client, path, "asc")) == 20


@pytest.mark.requirement("conversations.bounds")
async def test_unknown_cursors_are_refused_by_name(client: httpx.AsyncClient) -> None:
    path = await new_conversation(client, talk(2))
    other = await new_conversation(client, talk(1))
    foreign = (await client.get(f"{other}/items")).json()["first_id"]
    for to, query, param in (
        ("/conversations", {"after": "conv_never"}, "after"),
        ("/conversations", {"before": "conv_never"}, "before"),
        ("/conversations", {"limit": "101"}, "limit"),
        ("/conversations", {"limit": "0"}, "limit"),
        ("/conversations", {"order": "random"}, "order"),
        (f"{path}/items", {"after": "msg_never"}, "after"),
        (f"{path}/items", {"before": foreign}, "before"),
        (f"{path}/items", {"after": "x" * 129}, "after"),
        (f"{path}/shares", {"after": "shr_never"}, "after"),
    ):
        assert error_of(await client.get(to, params=query)) == (400, param), (to, query)


@pytest.mark.requirement("conversations.bounds")
async def test_what_is_no_utf8_or_nested_without_end_is_refused(
    client: httpx.AsyncClient,
) -> None:
    async def post(body: bytes) -> httpx.Response:
        return await client.post("/conversations", content=body)

    assert error_of(await post(b'{"title": "\xff\xfe"}'))[0] == 400
    assert error_of(await post(b'{"title": "\\ud800"}')) == (400, "title")
    for depth in (101, 500, 950, 5000, 1_000_000):
        deep = b"[" * depth + b"]" * depth
        item = b'{"type":"message","role":"user","content":"x","deep":%b}' % deep
        refused = await post(b'{"items":[%b]}' % item)
        assert refused.status_code == 400, depth
        if depth < 900:
            assert error_of(refused) == (400, "items[0]")
        answer = await post(b'{"title":"t","unknown":%b}' % deep)
        assert answer.status_code in (200, 400), "what is not known is not kept"
    fine = b'{"items":[{"type":"message","role":"user","content":"x","d":%b}]}'
    assert (await post(fine % (b"[" * 90 + b"]" * 90))).status_code == 200
