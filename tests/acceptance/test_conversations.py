"""Conversations and their items, through the real SDK, on a whole server."""

import json
from collections.abc import Callable
from typing import Any, Literal

import httpx
import openai
import pytest

from tests.support.server import LaunchedServer, eventually, http_client, openai_client
from tests.support.stored import message


@pytest.mark.requirement("conversations.crud")
def test_a_conversation_is_created_read_changed_and_deleted(client: openai.OpenAI) -> None:
    made = client.conversations.create(metadata={"topic": "demo"}, items=[message("hello")])  # type: ignore[list-item]
    assert made.id.startswith("conv_")
    assert made.object == "conversation"
    assert made.metadata == {"topic": "demo"}

    assert client.conversations.retrieve(made.id) == made

    changed = client.conversations.update(made.id, metadata={"topic": "other"})
    assert changed.metadata == {"topic": "other"}
    assert client.conversations.retrieve(made.id).metadata == {"topic": "other"}

    gone = client.conversations.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)


@pytest.mark.requirement("conversations.items")
def test_items_are_listed_both_ways_page_by_page(client: openai.OpenAI) -> None:
    conversation = client.conversations.create(items=[message(f"{n}") for n in range(5)])  # type: ignore[misc]
    more = client.conversations.items.create(
        conversation.id, items=[message("5"), message("6", "assistant")]
    )  # type: ignore[list-item]
    assert [item.type for item in more.data] == ["message", "message"]

    newest_first = [
        text(item) for item in client.conversations.items.list(conversation.id, limit=2)
    ]
    assert newest_first == ["6", "5", "4", "3", "2", "1", "0"]
    oldest_first = client.conversations.items.list(conversation.id, order="asc", limit=3)
    assert [text(item) for item in oldest_first] == ["0", "1", "2", "3", "4", "5", "6"]

    third = client.conversations.items.list(conversation.id, order="asc", limit=3).data[2]
    assert client.conversations.items.retrieve(third.id, conversation_id=conversation.id) == third
    left = client.conversations.items.delete(third.id, conversation_id=conversation.id)
    assert left.id == conversation.id
    rest = client.conversations.items.list(conversation.id, order="asc", after=third.id)
    assert [text(item) for item in rest] == ["3", "4", "5", "6"]


@pytest.mark.requirement("conversations.items")
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_items_are_listed_backwards_from_one_page_by_page(
    client: openai.OpenAI, order: Literal["asc", "desc"]
) -> None:
    conversation = client.conversations.create(items=[message(f"{n}") for n in range(8)]).id  # type: ignore[misc]
    known = [item.id for item in client.conversations.items.list(conversation, order=order)]
    found: list[str] = []
    cursor, has_more = known[7], True
    while has_more:
        page = client.conversations.items.list(
            conversation, order=order, limit=3, extra_query={"before": cursor}
        )
        found = [item.id for item in page.data] + found
        cursor, has_more = page.data[0].id, page.has_more
    assert found == known[:7]
    first = client.conversations.items.list(conversation, order=order, after=known[7])
    assert (first.data, first.has_more) == ([], False)


ITEMS: list[dict[str, Any]] = [
    message("hello"),
    {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "x"},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "why"}]},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
    {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_image", "image_url": "data:,", "detail": "auto"}],
    },
]


@pytest.mark.requirement("conversations.items")
def test_items_of_every_kind_come_back_as_what_the_sdk_has_for_them(client: openai.OpenAI) -> None:
    conversation = client.conversations.create(items=ITEMS).id  # type: ignore[arg-type]
    found = list(client.conversations.items.list(conversation, order="asc"))
    assert [item.type for item in found] == [item["type"] for item in ITEMS]
    for sent, item in zip(ITEMS, found, strict=True):
        told = item.to_dict()
        given = {name: value for name, value in sent.items() if name not in ("id", "content")}
        assert {name: told[name] for name in given} == given
        assert client.conversations.items.retrieve(item.id, conversation_id=conversation) == item


@pytest.mark.requirement("conversations.crud")
def test_what_was_deleted_is_a_404_however_it_is_asked_for(client: openai.OpenAI) -> None:
    conversation = client.conversations.create(items=[message("hello")]).id  # type: ignore[list-item]
    item = client.conversations.items.list(conversation).data[0].id
    assert client.conversations.update(conversation, metadata=None).metadata == {}
    client.conversations.items.delete(item, conversation_id=conversation)
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.delete(item, conversation_id=conversation)
    client.conversations.delete(conversation)
    asked: list[Callable[[], object]] = [
        lambda: client.conversations.delete(conversation),
        lambda: client.conversations.update(conversation, metadata={}),
        lambda: client.conversations.items.list(conversation),
        lambda: client.conversations.items.create(conversation, items=[message("x")]),  # type: ignore[list-item]
        lambda: client.conversations.items.retrieve(item, conversation_id=conversation),
    ]
    for ask in asked:
        with pytest.raises(openai.NotFoundError):
            ask()


@pytest.mark.requirement("conversations.edges")
def test_what_is_written_at_one_edge_is_read_at_the_other_at_once(
    server: LaunchedServer, api_key: str
) -> None:
    with http_client(server.edges[0], api_key) as one, http_client(server.edges[1], api_key) as two:
        for number in range(50):
            here, there = (one, two) if number % 2 else (two, one)
            made = here.post("/v1/conversations", json={"items": [message("hello")]}).json()
            path = f"/v1/conversations/{made['id']}"
            assert there.get(path).json() == made
            ask = {"model": "jan-simulated", "messages": [{"role": "user", "content": "hi"}]}
            more = {"conversation": made["id"], "stream": True, "max_tokens": 1}
            said = here.post("/v1/chat/completions", json=ask | more)
            assert said.is_success, said.text
            assert len(there.get(f"{path}/items").json()["data"]) == 3
            assert here.delete(path).is_success
            assert there.get(path).status_code == 404


@pytest.mark.requirement("users.delete")
def test_who_deletes_himself_has_nothing_left_but_what_he_used(server: LaunchedServer) -> None:
    key = server.create_key("--name", "gone", "--principal", "user_who_goes")
    with openai_client(server.url, key) as client, http_client(server.url, key) as http:
        kept = client.conversations.create(items=[message("hello")])  # type: ignore[list-item]
        client.chat.completions.create(
            model="jan-simulated",
            messages=[{"role": "user", "content": "hi"}],
            extra_body={"conversation": kept.id},
        )
        assert len(list(client.conversations.items.list(kept.id))) == 3

        assert http.delete("/v1/users/me").json() == {
            "id": "user_who_goes",
            "object": "user.deleted",
            "deleted": True,
        }

        assert http.get("/v1/conversations").status_code == 401
    new = server.create_key("--name", "back", "--principal", "user_who_goes")
    with openai_client(server.url, new) as client, http_client(server.url, new) as http:
        with pytest.raises(openai.NotFoundError):
            client.conversations.retrieve(kept.id)
        assert http.get("/v1/conversations").json()["data"] == []
        assert http.get("/v1/usage").json()["data"][0]["requests"] == 1
        client.conversations.create(items=[message("back")])  # type: ignore[list-item]
        assert len(http.get("/v1/conversations").json()["data"]) == 1


@pytest.mark.requirement("users.sessions")
def test_the_sessions_of_who_is_deleted_have_ended_on_every_edge(server: LaunchedServer) -> None:
    with http_client(server.url) as http:
        pair = http.post("/auth/guest-login").raise_for_status().json()
    with http_client(server.url, pair["access_token"]) as http:
        assert http.delete("/v1/users/me").status_code == 200
    for url in server.edges:
        with http_client(url, pair["access_token"]) as http:
            refused = eventually(lambda http=http: refusal_of(http))  # type: ignore[misc]
            assert refused == ("token_revoked", "the session was ended")
        with http_client(url) as http:
            again = http.post("/auth/refresh-token", json={"refresh_token": pair["refresh_token"]})
            assert again.status_code == 401


@pytest.mark.requirement("users.keys")
def test_the_keys_of_who_is_deleted_are_refused_on_every_edge(server: LaunchedServer) -> None:
    keys = [server.create_key("--name", name, "--principal", "user_of_two") for name in "ab"]
    stays = server.create_key("--name", "of somebody else")
    with http_client(server.url, server.create_key("--scope", "admin")) as admin:
        assert admin.delete("/v1/admin/users/user_of_two").status_code == 200
    for url in server.edges:
        for key in keys:
            with http_client(url, key) as http:
                refused = eventually(lambda http=http: refusal_of(http))  # type: ignore[misc]
            assert refused == ("invalid_api_key", "the API key was revoked")
        with http_client(url, stays) as http:
            assert http.get("/v1/models").status_code == 200
    listed = json.loads(server.jan("keys", "list", "--json").stdout)
    of_two = [key for key in listed if key["principal"] == "user_of_two"]
    assert [key["usable"] for key in of_two] == [False, False]


def refusal_of(http: httpx.Client) -> tuple[str, str] | None:
    answer = http.get("/v1/models")
    if answer.status_code != 401:
        return None
    error = answer.json()["error"]
    return error["code"], error["message"]


@pytest.mark.requirement("users.delete")
def test_only_an_administrator_deletes_somebody_else(
    server: LaunchedServer, http: httpx.Client
) -> None:
    assert http.delete("/v1/admin/users/user_x").status_code == 403
    with http_client(server.url, server.create_key("--scope", "admin")) as admin:
        assert admin.delete("/v1/admin/users/user_x").json()["id"] == "user_x"


def text(item: object) -> str:
    return str(item.content[0].text)  # type: ignore[attr-defined]
