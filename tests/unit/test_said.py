"""What a WebSocket remembers of what was said and is not stored."""

from typing import Any

import msgspec

from edge.orders import Order
from edge.responses.said import Said, to_said
from schemas.queries.conversations import MAX_CONTEXT, MAX_CONTEXT_ITEMS
from schemas.responses.story import Ended


def ended(number: int) -> Ended:
    response = {
        "id": f"resp_{number}",
        "status": "completed",
        "output": [{"id": f"msg_{number}", "type": "message"}],
        "previous_response_id": "resp_stored",
    }
    return Ended(msgspec.Raw(msgspec.json.encode(response)))


def asking(items: list[dict[str, Any]]) -> Order:
    return Order(kind="response", model="m", body=b"{}", asked=items, store=False)


def chain(inputs: list[list[dict[str, Any]]]) -> Said:
    said: Said | None = None
    for number, items in enumerate(inputs):
        said = to_said(asking(items), said, ended(number))
    assert said is not None
    return said


def test_a_short_chain_is_remembered_whole() -> None:
    said = chain([[{"type": "message", "n": number}] for number in range(3)])
    assert said.response == "resp_2"
    assert said.after == "resp_stored"
    assert len(said.items) == 6


def test_of_a_long_chain_the_newest_is_remembered_and_nothing_before_it() -> None:
    text = "x" * (MAX_CONTEXT // 3)
    said = chain([[{"type": "message", "text": text, "n": number}] for number in range(6)])
    assert [item["n"] for item in said.items if "n" in item] == [4, 5]
    assert said.after is None
    many = chain([[{"type": "message"}] * (MAX_CONTEXT_ITEMS // 2) for _ in range(3)])
    assert len(many.items) == MAX_CONTEXT_ITEMS


def test_of_one_input_that_is_too_large_its_answer_is_remembered() -> None:
    said = chain([[{"type": "message", "text": "x" * MAX_CONTEXT}]])
    assert [item["id"] for item in said.items] == ["msg_0"]
