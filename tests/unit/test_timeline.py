"""The story that a run's stored messages tell."""

import msgspec
import pytest

from bus import Stored
from cli.timeline import Fact, Story, head_lines, in_order, printable, show_time, to_json, to_line
from schemas import frames, subjects
from schemas.commands import CancelRun, encode
from schemas.events import Attempt
from tests.support.runs import Told, accepted, finished, started

RUN = "run_01jd00000000000000000000aa"
OTHER = "run_01jd00000000000000000000bb"
BEGAN = 1000.0
OF_OTHER = b'{"replay_of":"%b",' % OTHER.encode()


def stored(told: Told, seq: int) -> Stored:
    return Stored(seq, told.subject, told.data, b"", BEGAN)


def frame(seq: int, kind: int, *, at: float, trailer: object = None, **fields: int) -> Stored:
    tail = frames.encode_trailer(trailer) if trailer is not None else b""
    data = b"".join(
        frames.sse(fields.get("first", 0) + n, b"{}") for n in range(fields.get("count", 0))
    )
    message = frames.encode(kind, at=round(at * 1e6), data=data, trailer=tail, **fields)
    return Stored(seq, subjects.frames("edge-1", RUN), message, b"", at)


def fence(seq: int, *, at: float, worker: str = "inference-1", attempt: int = 1) -> Stored:
    trailer = frames.Fence(f"nonce-{worker}", attempt, worker, BEGAN + 600)
    return frame(seq, frames.FENCE, at=at, trailer=trailer)


def data(
    seq: int, *, at: float, epoch: int, first: int, count: int = 1, commit: str = ""
) -> Stored:
    trailer = frames.Commit(commit, "local/m", "inference-1") if commit else None
    flags = frames.COMMIT if commit else 0
    return frame(
        seq,
        frames.DATA,
        at=at,
        trailer=trailer,
        epoch=epoch,
        first=first,
        count=count,
        flags=flags,
    )


def end(seq: int, *, at: float) -> Stored:
    return frame(seq, frames.END, at=at, trailer=frames.End(3))


def tell(story: Story, events: list[Told], tokens: list[Stored] = []) -> list[Fact]:  # noqa: B006
    facts = [
        fact for seq, told in enumerate(events, 1) for fact in story.on_event(stored(told, seq))
    ]
    facts += [fact for message in tokens for fact in story.on_frame(message)]
    return in_order([*facts, *story.flush(), *story.from_the_end()])


def lines(facts: list[Fact]) -> list[str]:
    before, shown = BEGAN, []
    for fact in facts:
        shown.append(to_line(fact, BEGAN, before))
        before = fact.at
    return shown


def test_a_run_that_went_well_is_told_line_by_line() -> None:
    events = [
        accepted(RUN, at=BEGAN),
        started(RUN, at=BEGAN + 0.004, epoch=7),
        finished(RUN, at=BEGAN + 2.2),
    ]
    tokens = [
        fence(7, at=BEGAN + 0.0032),
        data(8, at=BEGAN + 0.1, epoch=7, first=0),
        data(9, at=BEGAN + 1.1, epoch=7, first=1, count=50),
        data(10, at=BEGAN + 2.1, epoch=7, first=51, count=50, commit="completed"),
        end(11, at=BEGAN + 2.25),
    ]
    assert lines(tell(Story(RUN), events, tokens)) == [
        "     0.0 ms              accepted   by edge-1 for user_a · chat of m, streamed",
        "     0.0 ms              queued     for pool remote · interactive",
        "     3.2 ms     +3.2 ms  fence      epoch 7 by inference-1, attempt 1",
        "     4.0 ms     +0.8 ms  picked     by inference-1, attempt 1 · local/m · waited 4.0 ms",
        "   100.0 ms    +96.0 ms  first      #0 · 100.0 ms after acceptance",
        "     2.10 s     +2.00 s  frames     #0–#100 in 3 messages · 2.00 s · 50.0/s",
        "     2.10 s              commit     by inference-1 on local/m · the last is #100",
        "     2.20 s   +100.0 ms  completed  stop · 3 + 4 = 7 tokens · 2.20 s in all",
        "     2.25 s    +50.0 ms  end        readers are told",
    ]


def test_a_handover_is_told_with_the_silence_before_it() -> None:
    tokens = [
        fence(7, at=BEGAN),
        data(8, at=BEGAN + 1, epoch=7, first=0, count=5),
        fence(9, at=BEGAN + 3.5, worker="inference-2", attempt=2),
        data(10, at=BEGAN + 4, epoch=9, first=5, count=2, commit="completed"),
    ]
    facts = tell(Story(RUN), [accepted(RUN, at=BEGAN)], tokens)

    handover = next(fact for fact in facts if fact.what == "handover")
    assert handover.text == (
        "from inference-1 to inference-2, attempt 2 · epoch 9 · at #5 · 2.50 s after the last frame"
    )
    spans = [(f.fields["first"], f.fields["count"]) for f in facts if f.what == "frames"]
    assert spans == [(0, 5), (5, 2)], "each attempt's frames are told by themselves"


def test_what_a_worker_writes_after_losing_its_run_is_told_as_late() -> None:
    tokens = [
        fence(7, at=BEGAN),
        fence(9, at=BEGAN + 3, worker="inference-2", attempt=2),
        data(10, at=BEGAN + 3.1, epoch=7, first=0, count=2),
        data(11, at=BEGAN + 3.2, epoch=9, first=0, count=1),
    ]
    facts = tell(Story(RUN), [accepted(RUN)], tokens)
    late = next(fact for fact in facts if fact.what == "late")
    assert late.text == "#0–#1 of epoch 7: nobody sees it"


def test_a_fence_whose_ack_was_lost_is_no_handover() -> None:
    facts = tell(Story(RUN), [accepted(RUN)], [fence(7, at=BEGAN), fence(8, at=BEGAN + 0.5)])
    assert [fact.what for fact in facts][-2:] == ["fence", "fence"]
    assert "once more" in facts[-1].text


def test_a_result_that_is_not_streamed_is_told_by_its_size() -> None:
    body = b'{"id":"chatcmpl-1"}' * 100
    trailer = frames.encode_trailer(frames.Commit("completed", "local/m", "inference-1"))
    message = frames.encode(
        frames.DATA,
        count=1,
        at=round((BEGAN + 1) * 1e6),
        data=body,
        flags=frames.COMMIT | frames.RESULT,
        trailer=trailer,
    )
    one = Stored(5, subjects.frames("edge-1", RUN), message, b"", BEGAN)
    facts = tell(Story(RUN), [accepted(RUN, stream=False)], [one])
    assert [fact.what for fact in facts] == ["accepted", "queued", "result", "commit"]
    assert facts[2].text == "1.9 KiB of JSON in 1 message"


def test_without_its_frames_the_end_tells_who_said_what() -> None:
    attempts = [
        Attempt(1, "inference-1", 7, BEGAN, 0, 5),
        Attempt(2, "inference-2", 9, BEGAN + 3, 5, 2),
    ]
    facts = tell(Story(RUN), [accepted(RUN), finished(RUN, attempts=attempts)])
    assert [fact.text for fact in facts if fact.what == "frames"] == [
        "#0–#4 by inference-1, attempt 1",
        "#5–#6 by inference-2, attempt 2",
    ]


def test_a_failure_is_told_with_its_error() -> None:
    error = b'{"error":{"message":"it broke","type":"t","code":"upstream_error"}}'
    facts = tell(
        Story(RUN),
        [accepted(RUN, at=BEGAN), finished(RUN, at=BEGAN + 1, status="failed", error=error)],
    )
    failed = next(fact for fact in facts if fact.what == "failed")
    assert failed.text.startswith("upstream_error: it broke")
    assert failed.fields["error"]["error"]["message"] == "it broke"


def test_a_request_to_cancel_is_told_with_its_reason() -> None:
    cancel = encode(CancelRun(RUN, "the client left", by="edge-1", at=BEGAN + 1))
    facts = Story(RUN).on_control(Stored(4, subjects.cancel(RUN), cancel, b"", BEGAN))
    assert [fact.text for fact in facts] == ["asked for by edge-1: the client left"]


def test_others_in_the_shard_tell_nothing_even_if_they_name_the_run() -> None:
    story = Story(RUN)
    request = b'{"messages":[{"role":"user","content":"what about %b?"}]}' % RUN.encode()
    assert tell(story, [accepted(OTHER, request=request), finished(OTHER)]) == []
    assert not story.known


@pytest.mark.parametrize("message", [b"", b"\x00", b"\x01\x02" + b"\xff" * 40])
def test_an_unreadable_message_is_told_and_stops_nothing(message: bytes) -> None:
    story = Story(RUN)
    broken = Stored(8, subjects.frames("edge-1", RUN), message, b"", BEGAN)
    facts = tell(story, [accepted(RUN)], [broken, fence(9, at=BEGAN)])
    assert sorted(fact.what for fact in facts) == ["accepted", "fence", "queued", "unreadable"]


def test_each_fact_is_one_json_object() -> None:
    for fact in tell(Story(RUN), [accepted(RUN, at=BEGAN), finished(RUN)]):
        told = msgspec.json.decode(to_json(fact, RUN, BEGAN), type=dict[str, object])
        assert (told["run_id"], told["what"]) == (RUN, fact.what)
        assert {"at", "ms"} <= told.keys()
        assert None not in told.values()


def test_a_client_cant_control_the_terminal() -> None:
    facts = tell(Story(RUN), [accepted(RUN, model="\x1b[2J\x07evil\n")])
    shown = "".join(lines(facts))
    assert "\x1b" not in shown
    assert "\n" not in shown
    assert printable("a\x1b[0mb–ü") == "a\\x1b[0mb–ü"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 ms"),
        (0.0123, "12.3 ms"),
        (1.234, "1.23 s"),
        (59.99, "59.99 s"),
        (125, "2 min 05 s"),
    ],
)
def test_durations_read_well(seconds: float, shown: str) -> None:
    assert show_time(seconds) == shown


def test_a_replay_is_told_from_its_own_facts() -> None:
    story = Story(RUN)
    told = [
        Told(one.subject.replace(".run.", ".replay."), one.data.replace(b"{", OF_OTHER, 1))
        for one in (started(RUN), finished(RUN))
    ]
    assert [fact.what for fact in tell(story, told)] == ["picked", "frames", "completed"]
    assert head_lines(story) == [RUN, f"a replay of {OTHER}"]
