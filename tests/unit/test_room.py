"""What is kept of an output that is too large: as much of its beginning as there is room for."""

from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from schemas.history import MAX_STORED_RESULT
from schemas.responses.fold import ResponseFold
from schemas.responses.story import Added, Begun, encode_entry
from workers.responses.room import Kept, has_room, keep
from workers.responses.settings import ResponsesSettings

ROOM = 65536
SETTINGS = ResponsesSettings(nats_url=SecretStr("nats://x"), response_bytes=ROOM)


def fold_of(*items: dict[str, Any], instructions: str = "") -> ResponseFold:
    """A response that has come to these items."""
    fold = ResponseFold("run_01jd00000000000000000000aa")
    begun = msgspec.Raw(msgspec.json.encode({"instructions": instructions}))
    fold.feed(encode_entry(Begun(begun)))
    for item in items:
        fold.feed(encode_entry(Added(msgspec.Raw(msgspec.json.encode(item)))))
    return fold


def message(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "status": "completed", "content": list(parts)}


def said(text: str) -> dict[str, Any]:
    cited = {"type": "url_citation", "start_index": len(text) - 1, "end_index": len(text)}
    return {"type": "output_text", "text": text, "annotations": [cited], "logprobs": []}


def call(arguments: str) -> dict[str, Any]:
    return {"type": "mcp_call", "status": "completed", "name": "f", "arguments": arguments}


def size_of(kept: Kept) -> int:
    return len(msgspec.json.encode(kept.items))


def test_what_has_room_is_kept_as_it_is() -> None:
    fold = fold_of(call("x"), message(said("so")))
    assert has_room(fold, SETTINGS)
    assert keep(fold, SETTINGS) == Kept(fold.items)


@pytest.mark.parametrize("character", ["x", "\u00e4", "\n", "\x00", "\U0001f600"])
def test_a_text_keeps_its_beginning(character: str) -> None:
    fold = fold_of(call("x"), message(said("first"), said(character * 70_000)), call("y"))
    assert not has_room(fold, SETTINGS)
    kept = keep(fold, SETTINGS)
    first, cut = kept.items
    assert first == fold.items[0]
    assert (cut["id"], cut["status"]) == (fold.items[1]["id"], "incomplete")
    whole, part = cut["content"]
    assert whole == said("first")
    assert part["text"] == character * len(part["text"])
    assert part["annotations"] == []  # what it pointed to is not there
    assert ROOM - 16 <= size_of(kept) <= ROOM
    total = len(msgspec.json.encode(fold.items))
    assert kept.left_out == (
        f"the output has {total} bytes, of {ROOM} that it may have: "
        "output[1] is cut short, items left out after it: 1"
    )


@pytest.mark.parametrize("field", ["summary", "content"])
def test_a_thought_keeps_its_beginning(field: str) -> None:
    empty = {"type": "reasoning", "summary": [], "content": []}
    fold = fold_of(empty | {field: [{"type": "reasoning_text", "text": "why " * 20_000}]})
    kept = keep(fold, SETTINGS)
    (thought,) = kept.items
    assert len(thought[field][0]["text"]) > ROOM - 1000
    assert size_of(kept) <= ROOM


def test_a_call_is_left_out_whole_and_all_after_it() -> None:
    fold = fold_of(call("x"), call("y" * ROOM), call("z"))
    kept = keep(fold, SETTINGS)
    assert kept.items == fold.items[:1]
    assert kept.left_out is not None
    assert kept.left_out.endswith("items left out: 2 of 3")


def test_one_that_was_asked_at_length_has_less_room() -> None:
    large = SETTINGS.model_copy(update={"response_bytes": MAX_STORED_RESULT})
    fold = fold_of(message(said("x" * (2 << 20))), instructions="y" * (2 << 20))
    kept = keep(fold, large)
    response = fold.to_response("failed", 0.0, output=kept.items)
    assert MAX_STORED_RESULT - (128 << 10) < len(msgspec.json.encode(response)) < MAX_STORED_RESULT
