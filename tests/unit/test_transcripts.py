"""What a run came to, and how two runs of one request differ."""

import base64
import struct
from typing import Any

import msgspec
import pytest

from schemas.api.replays import to_report
from schemas.commands import Kind, RunInference, Target
from schemas.events import Attempt, RunAccepted, RunFinished, Status
from schemas.transcripts import ToolCall, Transcript, compare, to_transcript

REQUEST = b'{"model":"m","messages":[]}'
SEEDED = b'{"model":"m","messages":[],"seed":7}'


def accepted(kind: Kind = "chat", *, stream: bool = True, at: float = 100.0) -> RunAccepted:
    job = RunInference(
        run_id="run_1",
        kind=kind,
        edge="edge-1",
        principal="user_a",
        model="m",
        targets=[Target("local/m", "remote")],
        created=100,
        deadline=700.0,
        request_id="req_1",
        stream=stream,
        request=msgspec.Raw(REQUEST),
    )
    return RunAccepted(job, at)


def finished(body: Any = None, *, status: Status = "completed", **more: Any) -> RunFinished:
    facts = {
        "run_id": "run_1",
        "status": status,
        "at": 104.0,
        "deployment": "local/m",
        "attempts": [Attempt(1, "inference-1", 10, 101.0, 0, 5)],
        "first_frame_at": 102.0,
        "usage": msgspec.Raw(b'{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}'),
        "result": msgspec.Raw(msgspec.json.encode(body)) if body is not None else None,
    }
    return RunFinished(**(facts | more))


def answer(text: str | None = "hello", *calls: tuple[str, str], **more: Any) -> Any:
    """A chat's body with one choice."""
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if calls:
        message["tool_calls"] = [
            {"id": f"call_{n}", "function": {"name": name, "arguments": given}}
            for n, (name, given) in enumerate(calls)
        ]
    reason = "tool_calls" if calls else "stop"
    return {"choices": [{"index": 0, "message": message | more, "finish_reason": reason}]}


def told(body: Any, **more: Any) -> Transcript:
    return to_transcript(accepted(), finished(body, **more))


def test_a_chats_texts_calls_and_reason_are_read() -> None:
    body = answer("hi", ("look", '{"at": [1, 2]}'), ("shout", "not JSON"), reasoning_content="hm")
    (choice,) = told(body).choices
    assert choice.texts == {"content": "hi", "reasoning_content": "hm"}
    assert choice.tool_calls == [ToolCall("look", {"at": [1, 2]}), ToolCall("shout", "not JSON")]
    assert choice.finish_reason == "tool_calls"


def test_older_and_custom_calls_are_read() -> None:
    message = {
        "tool_calls": [{"type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}],
        "function_call": {"name": "old", "arguments": "{}"},
    }
    (choice,) = told({"choices": [{"message": message}]}).choices
    assert choice.tool_calls == [ToolCall("sql", "SELECT 1"), ToolCall("old", {})]


def test_a_completions_text_is_read() -> None:
    (choice,) = told({"choices": [{"index": 0, "text": "and so on"}]}).choices
    assert choice.texts == {"text": "and so on"}


def test_times_count_from_when_a_worker_took_the_run() -> None:
    timing = told(answer()).timing
    assert (timing.waited, timing.first_token, timing.total) == (1.0, 1.0, 3.0)
    assert timing.tokens_per_second == 2.0


def test_what_is_not_streamed_counts_from_its_acceptance() -> None:
    timing = to_transcript(accepted(stream=False), finished(answer())).timing
    assert (timing.waited, timing.first_token, timing.total) == (None, None, 4.0)
    assert timing.tokens_per_second == 1.0


def test_the_same_answer_is_the_same_whatever_its_ids() -> None:
    one = told(answer(None, ("look", '{"a": 1, "b": 2}')))
    other = told(answer("", ("look", '{ "b": 2, "a": 1 }')))
    comparison = compare(one, other, REQUEST)
    assert comparison.same
    assert comparison.notes == []


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (answer("hullo"), "text"),
        (answer("hello", ("look", "{}")), "tool_calls"),
        ({"choices": [{"message": {"content": "hello"}, "finish_reason": "length"}]}, "reason"),
        ({"choices": [*answer()["choices"], {"index": 1, "message": {"content": ""}}]}, "text"),
    ],
)
def test_another_answer_is_different(other: Any, what: str) -> None:
    comparison = compare(told(answer()), told(other), SEEDED)
    assert not comparison.same
    last = comparison.choices[-1]
    found = {"text": last.text, "tool_calls": last.tool_calls, "reason": last.finish_reason}
    assert not found[what]
    assert comparison.notes == []


@pytest.mark.parametrize(
    "given", ['{"a": true}', '{"a": "1"}', "{}", '{"a": 1, "b": null}', "[1]", "no JSON"]
)
def test_calls_with_other_arguments_are_different(given: str) -> None:
    one, other = told(answer(None, ("f", '{"a": 1}'))), told(answer(None, ("f", given)))
    assert not compare(one, other).choices[0].tool_calls


def test_the_order_of_calls_counts() -> None:
    one = told(answer(None, ("a", "{}"), ("b", "{}")))
    other = told(answer(None, ("b", "{}"), ("a", "{}")))
    assert not compare(one, other).same


def test_different_texts_come_with_a_unified_diff() -> None:
    one, other = told(answer("same\nold\nsame")), told(answer("same\nnew\nsame"))
    (choice,) = compare(one, other).choices
    assert choice.diffs == {
        "content": "--- original\n+++ replay\n@@ -1,3 +1,3 @@\n same\n-old\n+new\n same"
    }


@pytest.mark.parametrize(
    ("request_body", "note"),
    [
        (REQUEST, "no seed, and its temperature is the model's own"),
        (b'{"temperature":0.7}', "no seed, and its temperature is 0.7"),
        (b'{"temperature":0}', ""),
        (b'{"temperature":1,"seed":0}', ""),
        (b"no JSON", ""),
    ],
)
def test_a_difference_that_sampling_may_have_made_is_noted(request_body: bytes, note: str) -> None:
    notes = compare(told(answer("a")), told(answer("b")), request_body).notes
    assert bool(notes) == bool(note)
    assert note in "".join(notes)


def test_errors_are_compared_by_their_codes() -> None:
    def failed(code: str, message: str) -> Transcript:
        error = {"error": {"code": code, "message": message, "type": "server_error", "param": None}}
        return told(None, status="failed", error=msgspec.Raw(msgspec.json.encode(error)))

    one = failed("upstream_error", "at 12:00")
    assert one.error is not None
    assert one.error.message == "at 12:00"
    assert compare(one, failed("upstream_error", "at 13:00")).same
    assert not compare(one, failed("timeout", "at 12:00")).same
    recovered = compare(one, told(answer()))
    assert (recovered.same, recovered.status, recovered.error) == (False, False, False)


def test_a_cancelled_run_that_the_replay_begins_like_is_noted() -> None:
    one = told(answer("once upon"), status="cancelled")
    assert "was cancelled" in compare(one, told(answer("once upon a time"))).notes[0]
    assert not any("cancelled" in note for note in compare(one, told(answer("twice"))).notes)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (finished(None), "the log does not hold its result"),
        (finished({"choices": "of its own"}), "a form of its own"),
    ],
)
def test_what_is_not_known_can_not_be_the_same(facts: RunFinished, why: str) -> None:
    original = to_transcript(accepted(), facts)
    comparison = compare(original, original)
    assert not comparison.same
    assert why in comparison.notes[0]


def test_vectors_are_compared_and_their_similarity_told() -> None:
    def embedded(*vector: float, packed: bool = False) -> Transcript:
        data = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        body = {"data": [{"embedding": data if packed else vector}]}
        return to_transcript(accepted("embedding", stream=False), finished(body))

    one = embedded(1.0, 0.0)
    same = compare(one, embedded(1.0, 0.0, packed=True))
    assert (same.same, same.similarity) == (True, 1.0)
    turned = compare(one, embedded(0.0, 2.0))
    assert (turned.same, turned.similarity) == (False, 0.0)
    assert compare(one, embedded(1.0, 0.0, 0.0)).similarity is None


def test_counts_of_tokens_are_compared() -> None:
    one, other = ({"input_tokens": number} for number in (7, 8))
    assert compare(told(one), told(one)).same
    assert not compare(told(one), told(other)).same


def test_a_report_leaves_vectors_out() -> None:
    body = {"data": [{"embedding": [1.0]}]}
    runs = (accepted("embedding", stream=False), finished(body))
    replay = to_report(runs, runs, REQUEST)
    assert replay.same is True
    assert isinstance(replay.original, Transcript)
    assert replay.original.vectors == []


def test_texts_that_would_take_for_ever_are_not_compared_by_lines() -> None:
    one, other = told(answer("a\nb\n" * 3000)), told(answer("b\na\n" * 3000))
    (choice,) = compare(one, other).choices
    assert choice.diffs == {"content": "6,000 lines became 6,000: too much alike to be compared"}


def test_what_an_upstream_made_up_is_compared_as_far_as_it_can_be() -> None:
    parts = [{"type": "text", "text": "hi"}]
    (choice,) = told({"choices": [{"message": {"content": parts}}]}).choices
    assert choice.texts == {"content": '[{"text":"hi","type":"text"}]'}
    for odd in ("no base 64", "AAAAAAA="):
        assert len(told({"data": [{"embedding": odd}]}).vectors) == 1
    assert (
        told(answer(), usage=msgspec.Raw(b'{"prompt_tokens":"many"}')).usage.prompt_tokens is None
    )
    assert told(None, status="failed", error=msgspec.Raw(b"[]")).error is not None
