"""A stored result, put into the messages that its frames would have been."""

from typing import Any

import msgspec
import pytest

from edge import idempotency
from schemas import frames
from schemas.errors import InvalidRequest
from schemas.queries.runs import RunResult

CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {"total_tokens": 3},
}


def _fold(messages: list[bytes]) -> tuple[frames.Fold, bytes]:
    fold = frames.Fold()
    kept = [fold.apply(seq, message) for seq, message in enumerate(messages, 1)]
    return fold, b"".join([frame.data for frame in kept if frame is not None])


def _finished(result: dict[str, Any] | None = None, **fields: Any) -> RunResult:
    raw = None if result is None else msgspec.Raw(msgspec.json.encode(result))
    return RunResult("run_x", fields.pop("status", "completed"), result=raw, **fields)


def test_an_unstreamed_result_stays_as_it_is() -> None:
    fold, text = _fold(
        idempotency.to_messages(_finished(CHAT), "chat", stream=False, include_usage=False)
    )

    assert fold.committed
    assert msgspec.json.decode(text) == CHAT


def test_a_streamed_result_is_one_chunk_and_its_usage() -> None:
    fold, text = _fold(
        idempotency.to_messages(_finished(CHAT), "chat", stream=True, include_usage=True)
    )
    events = [frames.chunk_of(event) for event in frames.split_events(text)]
    chunk, usage = (msgspec.json.decode(event) for event in events[:2])

    assert fold.next == len(events) == 3
    assert events[-1] == b"[DONE]"
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["usage"] is None
    choice = chunk["choices"][0]
    assert choice["delta"]["tool_calls"][0]["index"] == 0
    assert choice["finish_reason"] == "tool_calls"
    assert "message" not in choice
    assert usage["choices"] == []
    assert usage["usage"] == CHAT["usage"]


def test_a_completion_streams_its_text() -> None:
    body = {"object": "text_completion", "choices": [{"index": 0, "text": "hi"}], "usage": {}}
    _, text = _fold(
        idempotency.to_messages(_finished(body), "completion", stream=True, include_usage=False)
    )
    chunk = msgspec.json.decode(frames.chunk_of(frames.split_events(text)[0]))

    assert chunk == {"object": "text_completion", "choices": [{"index": 0, "text": "hi"}]}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"type": "server_error", "code": "deadline_exceeded"}, 504),
        ({"type": "invalid_request_error", "code": "of the upstream"}, 400),
        ({"type": "unheard of", "code": None}, 500),
    ],
)
def test_a_stored_error_keeps_its_status(error: dict[str, Any], status: int) -> None:
    raw = msgspec.Raw(msgspec.json.encode({"error": error}))
    fold, _ = _fold(
        idempotency.to_messages(
            _finished(error=raw, status="failed"), "chat", stream=False, include_usage=False
        )
    )

    assert fold.last is not None
    assert fold.last.flags & frames.ERROR
    assert fold.last.status == status


def test_a_result_that_was_too_large_to_keep_gives_nothing() -> None:
    assert not idempotency.to_messages(_finished(), "chat", stream=False, include_usage=False)


def test_keys_are_apart_by_principal_and_route() -> None:
    names = {
        idempotency.key_name(principal, route, "k")
        for principal in ("a", "b")
        for route in ("chat", "completion")
    }
    assert len(names) == 4


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_keys_have_a_length(key: str) -> None:
    with pytest.raises(InvalidRequest):
        idempotency.key_name("a", "chat", key)
