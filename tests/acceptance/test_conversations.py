"""Conversations and their items, through the real SDK, on a whole server."""

import json

import httpx
import openai
import pytest

from tests.support.server import LaunchedServer, eventually, http_client, openai_client


def message(text: str, role: str = "user") -> dict[str, str]:
    return {"type": "message", "role": role, "content": text}


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
