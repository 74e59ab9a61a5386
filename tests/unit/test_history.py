"""RunFinished: what a run came to, from its frames alone."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import frames
from schemas.commands import Turn
from schemas.content import Content
from schemas.events import decode_run_finished
from schemas.history import DONE, MAX_RESULT, History, finish, put_together, to_run_finished
from workers.inference.engines import Captured

SECOND = 1_000_000


def chunk(index: int = 0, finish: str | None = None, **delta: object) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}
    return msgspec.json.encode(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 7,
            "model": "m",
            "choices": [choice],
        }
    )


def message_of(result: bytes | None, choice: int = 0) -> dict[str, object]:
    assert result is not None
    return dict(msgspec.json.decode(result)["choices"][choice]["message"])


def test_content_of_each_choice_is_joined() -> None:
    chunks = [
        chunk(0, role="assistant", content=""),
        chunk(1, role="assistant", content=""),
        chunk(1, content="B"),
        chunk(0, content="A"),
        chunk(0, content="a"),
        chunk(1, "length"),
        chunk(0, "stop"),
    ]
    result = put_together(chunks, b'{"total_tokens":3}')
    assert result is not None
    body = msgspec.json.decode(result)
    assert body["object"] == "chat.completion"
    assert body["usage"] == {"total_tokens": 3}
    assert [choice["message"]["content"] for choice in body["choices"]] == ["Aa", "B"]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["stop", "length"]
    assert body["choices"][0]["message"]["refusal"] is None


def test_tool_calls_grow_by_their_arguments() -> None:
    first = {"index": 0, "id": "call_1", "type": "function"}
    chunks = [
        chunk(0, role="assistant", content=None),
        chunk(0, tool_calls=[first | {"function": {"name": "look", "arguments": ""}}]),
        chunk(0, tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}]),
        chunk(0, tool_calls=[{"index": 1, "id": "call_2", "function": {"name": "go"}}]),
        chunk(0, tool_calls=[{"index": 0, "function": {"arguments": "1}"}}]),
        chunk(0, "tool_calls"),
    ]
    message = message_of(put_together(chunks, None))
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}},
        {"id": "call_2", "function": {"name": "go"}},
    ]


def test_fields_of_upstreams_own_are_kept() -> None:
    chunks = [chunk(0, reasoning_content="be"), chunk(0, reasoning_content="cause", content="x")]
    message = message_of(put_together(chunks, None))
    assert message["reasoning_content"] == "because"
    assert message["content"] == "x"


def test_log_probabilities_are_appended() -> None:
    def with_logprobs(token: str) -> bytes:
        decoded = msgspec.json.decode(chunk(0, content=token))
        decoded["choices"][0]["logprobs"] = {"content": [{"token": token}], "refusal": None}
        return msgspec.json.encode(decoded)

    result = put_together([with_logprobs("a"), with_logprobs("b")], None)
    assert result is not None
    logprobs = msgspec.json.decode(result)["choices"][0]["logprobs"]
    assert logprobs == {"content": [{"token": "a"}, {"token": "b"}], "refusal": None}


def test_a_completions_text_is_joined() -> None:
    chunks = [
        b'{"object":"text_completion","choices":[{"index":0,"text":"a","finish_reason":null}]}',
        b'{"object":"text_completion","choices":[{"index":0,"text":"b","finish_reason":"stop"}]}',
    ]
    result = put_together(chunks, None)
    assert result is not None
    (choice,) = msgspec.json.decode(result)["choices"]
    assert choice == {"index": 0, "text": "ab", "logprobs": None, "finish_reason": "stop"}


@pytest.mark.parametrize("odd", [b"[]", b'{"choices":"x"}', b"nonsense"])
def test_chunks_that_are_none_give_no_result(odd: bytes) -> None:
    assert put_together([odd], None) is None


def written(*messages: bytes) -> tuple[History, frames.Fold]:
    """A history read from messages with the sequences 10, 20, …"""
    history, fold = History(), frames.Fold()
    for number, message in enumerate(messages, 1):
        history.read(fold, number * 10, message)
    return history, fold


def fence(owner: str, attempt: int, at: int) -> bytes:
    trailer = frames.encode_trailer(frames.Fence(owner, attempt, f"worker-{attempt}", 0.0))
    return frames.encode(frames.FENCE, at=at, trailer=trailer)


def data(epoch: int, first: int, at: int, *chunks: bytes, commit: str = "") -> bytes:
    trailer = frames.encode_trailer(frames.Commit(commit, "p/m", "w", 2, "stop")) if commit else b""
    return frames.encode(
        frames.DATA,
        epoch=epoch,
        first=first,
        count=len(chunks),
        at=at,
        data=b"".join(frames.sse(first + number, chunk) for number, chunk in enumerate(chunks)),
        flags=frames.COMMIT if commit else 0,
        trailer=trailer,
    )


def test_a_run_that_was_handed_over_tells_of_both_attempts() -> None:
    history, _ = written(
        fence("a", 1, 1 * SECOND),
        data(10, 0, 2 * SECOND, chunk(0, content="x")),
        fence("b", 2, 5 * SECOND),
        data(10, 1, 6 * SECOND, chunk(0, content="zombie")),
        data(30, 1, 7 * SECOND, chunk(0, "stop", content="y"), DONE, commit="completed"),
        fence("c", 3, 9 * SECOND),
    )
    finished = decode_run_finished(to_run_finished("run_x", history))
    assert finished.status == "completed"
    assert (finished.at, finished.first_frame_at, finished.frames) == (7.0, 2.0, 3)
    assert (finished.deployment, finished.finish_reason) == ("p/m", "stop")
    first, second = finished.attempts
    assert (first.worker, first.epoch, first.at, first.first, first.count) == (
        "worker-1",
        10,
        1.0,
        0,
        1,
    )
    assert (second.worker, second.epoch, second.at, second.first, second.count) == (
        "worker-2",
        30,
        5.0,
        1,
        2,
    )
    assert message_of(finished.result)["content"] == "xy"  # type: ignore[arg-type]


def test_a_fence_that_is_there_twice_is_one_attempt() -> None:
    history, _ = written(fence("a", 1, SECOND), fence("a", 1, SECOND))
    (attempt,) = history.attempts
    assert attempt.epoch == 20


def test_a_result_without_a_fence_is_one_attempt() -> None:
    trailer = frames.encode_trailer(frames.Commit("completed", "p/m", "w", 1))
    flags = frames.RESULT | frames.COMMIT
    body = frames.encode(
        frames.DATA, count=1, at=SECOND, data=b'{"a":1}', flags=flags, trailer=trailer
    )
    history, fold = written(body)
    assert fold.committed
    finished = decode_run_finished(to_run_finished("run_x", history))
    (attempt,) = finished.attempts
    assert (attempt.worker, attempt.count) == ("w", 1)
    assert finished.result == msgspec.Raw(b'{"a":1}')


def test_an_error_is_told_beside_the_text_before_it() -> None:
    error = b'{"error":{"message":"no"}}'
    trailer = frames.encode_trailer(frames.Commit("failed"))
    history, _ = written(
        fence("a", 1, SECOND),
        data(10, 0, SECOND, chunk(0, content="x")),
        frames.encode(
            frames.DATA,
            epoch=10,
            first=1,
            count=1,
            at=SECOND,
            data=frames.sse(1, error),
            flags=frames.ERROR | frames.COMMIT,
            trailer=trailer,
        ),
    )
    finished = decode_run_finished(to_run_finished("run_x", history))
    assert finished.status == "failed"
    assert finished.error == msgspec.Raw(error)
    assert message_of(finished.result)["content"] == "x"  # type: ignore[arg-type]


def test_a_large_result_is_left_out() -> None:
    long = chunk(0, content="x" * (MAX_RESULT + 1))
    history, _ = written(fence("a", 1, SECOND), data(10, 0, SECOND, long, DONE, commit="completed"))
    assert decode_run_finished(to_run_finished("run_x", history)).result is None
    assert len(bytes(finish("run_x", history).result or b"")) > MAX_RESULT


def test_the_log_does_not_hold_what_a_replay_said() -> None:
    history, _ = written(
        fence("a", 1, SECOND),
        data(10, 0, SECOND, chunk(0, content="said"), DONE, commit="completed"),
    )
    finished = decode_run_finished(to_run_finished("run_x", history, "run_w"))
    assert (finished.replay_of, finished.result, finished.frames) == ("run_w", None, 2)


@pytest.mark.parametrize("content", ["short", "none"])
def test_the_log_does_not_hold_an_answer_where_it_keeps_less(content: Content) -> None:
    history, _ = written(
        fence("a", 1, SECOND),
        data(10, 0, SECOND, chunk(0, content="said"), DONE, commit="completed"),
    )
    finished = decode_run_finished(to_run_finished("run_x", history, content=content))
    assert (finished.result, finished.frames, finished.status) == (None, 2, "completed")


anything = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(("index", "arguments", "function", "a")), inner)
    ),
    max_leaves=4,
)
deltas = st.dictionaries(
    st.sampled_from(("role", "content", "refusal", "tool_calls", "function_call")), anything
)


@given(st.lists(deltas, max_size=4))
def test_whatever_an_upstream_sends_a_run_can_end(given: list[dict[str, object]]) -> None:
    chunks = [chunk(**delta) for delta in given]
    put_together(chunks, None)
    Captured(chunks).choices()


def test_content_in_a_form_of_its_own_is_not_continued() -> None:
    parts = [{"type": "thinking", "thinking": "hm"}]
    choices = Captured([chunk(content="A"), chunk(content=parts), chunk(content="B")]).choices()
    assert (choices[0].text, choices[0].continuable) == ("AB", False)


def test_a_run_that_is_stored_tells_a_longer_result_and_where_it_goes() -> None:
    history = History(body=[b"7" * (MAX_RESULT + 1)])
    history.add_commit(frames.Commit("completed"), SECOND)
    turn = Turn("conv_1", "MAIN", 3)
    for kept in ({"turn": turn}, {"store": True}):
        finished = decode_run_finished(to_run_finished("run_x", history, **kept))  # type: ignore[arg-type]
        assert finished.result is not None
        assert (finished.turn, finished.store) == (kept.get("turn"), kept.get("store", False))
    assert decode_run_finished(to_run_finished("run_x", history)).result is None
