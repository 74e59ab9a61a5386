"""Conversations and their items, through the real SDK, on a whole server."""

import openai
import pytest


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


def text(item: object) -> str:
    return str(item.content[0].text)  # type: ignore[attr-defined]
