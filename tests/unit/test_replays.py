"""The job of a replay, and what people see of one."""

import argparse
import asyncio
import time

import msgspec
import pytest

from cli import comparison
from cli.exits import BadSetup, Exit
from cli.repeats import Repeats
from cli.replay import add_arguments, check
from cli.words import changes, to_text
from schemas import subjects
from schemas.api.replays import Replay, to_report
from schemas.catalogue import Catalogue, Deployment, Model
from schemas.commands import RunInference, Target, Turn
from schemas.errors import Gone, ModelNotFound
from schemas.events import RunAccepted
from schemas.replays import needs_of_replay, require_recorded, require_whole, target_of, to_job
from tests.unit.test_transcripts import REQUEST, accepted, answer, finished

ELSEWHERE = [Target("other/m2", "gpu")]


def job_of(command: RunInference) -> RunInference:
    return to_job(
        command, "run_2", model="m2", targets=ELSEWHERE, deadline=60.0, request_id="req_2"
    )


def report(before: str, after: str) -> Replay:
    one = accepted()
    other = RunAccepted(job_of(one.command), one.at)
    return to_report((one, finished(answer(before))), (other, finished(answer(after))), REQUEST)


def test_a_replay_asks_the_same_of_another_model_in_a_sandbox() -> None:
    command = accepted().command
    job = job_of(msgspec.structs.replace(command, turn=Turn("conv_1", "main"), store=True, moves=2))
    assert job.request == command.request
    assert (job.run_id, job.replay_of, job.model) == ("run_2", "run_1", "m2")
    assert job.targets == ELSEWHERE
    assert (job.edge, job.background, job.moves) == (subjects.REPLAYS, True, 0)
    assert (job.turn, job.store) == (None, False)
    assert time.time() < job.deadline < time.time() + 61


def test_a_request_that_was_not_recorded_can_not_be_replayed() -> None:
    command = accepted().command
    require_recorded(command)
    for unsaid in ({"request": None}, {"content": "short"}):
        with pytest.raises(Gone, match="JAN_LOG_CONTENT"):
            require_recorded(msgspec.structs.replace(command, **unsaid))


def test_a_request_that_refers_to_nobody_knows_what_can_not_be_replayed() -> None:
    command = accepted().command
    for referring in (b'{"prompt":{"id":"pmpt_1"}}', b'{"conversation":"conv_1"}'):
        with pytest.raises(Gone, match="the log does not say what it was"):
            require_whole(command, referring)
    for whole in (b'{"messages":[{"content":"a \\"prompt\\""}]}', b'{"prompt":null}', b"no JSON"):
        require_whole(command, whole)
    require_whole(accepted("completion").command, b'{"prompt":"once upon"}')


def test_a_replay_goes_where_its_tools_are_supported() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    assert needs_of_replay(accepted().command, msgspec.json.encode(body)) == {"tools": "tools"}
    assert needs_of_replay(accepted().command, b'{"of another": "form"}') == {}
    assert needs_of_replay(accepted("embedding").command, b"{}") == {}


def test_a_deployment_is_found_with_the_model_that_it_serves() -> None:
    shared = Deployment("local/x", "gpu")
    models = [Model(name, 0, "me", [shared]) for name in ("a", "b")]
    catalogue = Catalogue(models)
    assert target_of(catalogue, "local/x", "b") == ("b", Target("local/x", "gpu"))
    assert target_of(catalogue, "local/x", "z") == ("a", Target("local/x", "gpu"))
    with pytest.raises(ModelNotFound, match="local/y"):
        target_of(catalogue, "local/y", "a")


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("the old way", "the new way", "the[- old-]{+ new+} way"),
        ("one", "one two", "one{+ two+}"),
        ("", "all new", "{+all new+}"),
        ("all gone", "", "[-all gone-]"),
        ("same", "same", "same"),
    ],
)
def test_a_difference_is_shown_word_by_word(before: str, after: str, shown: str) -> None:
    assert to_text(changes(before, after), colour=False) == shown


def test_long_equal_parts_are_cut_out() -> None:
    text = " ".join(f"word{number}" for number in range(1000))
    shown = to_text(changes(f"old {text}", f"new {text}"), colour=False)
    assert shown.startswith("[-old-]{+new+} word0 ")
    assert len(shown) < 150
    assert "characters" in shown


def test_two_long_unlike_texts_are_compared_in_time() -> None:
    one = " ".join(f"{number % 97} is" for number in range(20_000))
    other = " ".join(f"was {number % 89}" for number in range(20_000))
    began = time.process_time()
    found = changes(one, other)
    assert time.process_time() - began < 20
    assert "".join(change.text for change in found if change.what != "new") == one
    assert "".join(change.text for change in found if change.what != "gone") == other


def test_a_report_puts_both_runs_side_by_side() -> None:
    lines = comparison.to_report(report("the old way", "the new way"), colour=False).splitlines()
    assert lines[0].split() == ["original", "replay"]
    assert lines[1].split() == ["run", "run_1", "run_2"]
    assert lines[2].split() == ["model", "m", "m2"]
    assert "choice 0: text different · tool calls same · finish reason same" in lines
    assert "  content: the[- old-]{+ new+} way" in lines
    assert lines[-1] == "different"


def test_a_report_of_the_same_says_so_and_no_more() -> None:
    lines = comparison.to_report(report("as it was", "as it was"), colour=False).splitlines()
    assert lines[-2:] == [
        "choice 0: text same · tool calls same · finish reason same",
        "same",
    ]


def test_what_a_model_wrote_can_not_steer_a_terminal() -> None:
    told = comparison.to_report(report("a\x1b[2Jb", "c\nd"), colour=False)
    assert "\x1b" not in told
    assert "[-a\\x1b[2Jb-]{+c\n  d+}" in told


def test_colours_are_for_terminals() -> None:
    told = comparison.to_report(report("old", "new"), colour=True)
    assert "\x1b[31mold\x1b[0m\x1b[32mnew\x1b[0m" in told


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(list(arguments))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "name one run"),
        (["run_1", "--many"], "name one run"),
        (["run_1", "--model-was", "m"], "--model-was is for --many"),
        (["run_1", "--at", "0"], "--at 0: steps count from 1"),
        (["run_1", "--timeout", "0"], "--timeout"),
        (["run_1", "--timeout", "4000"], "--timeout"),
        (["--many", "--limit", "-1"], "--limit is 1 or more"),
        (["--many", "--concurrency", "-2"], "--concurrency is 1 or more"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], why: str) -> None:
    with pytest.raises(BadSetup, match=why):
        check(parsed(*arguments))


async def test_many_are_replayed_some_at_a_time_and_summed_up() -> None:
    running, most = 0, 0
    shown: list[str] = []

    async def replay(run_id: str) -> Replay:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        match run_id:
            case "gone":
                raise Gone("its request was not recorded")
            case "odd":
                raise Exit("odd can't be replayed")
            case "other":
                return report("a", "b")
        return report("a", "a")

    repeats = Repeats(replay, 2, shown.append, colour=False)
    done = await repeats.run(["one", "gone", "two", "odd", "other"])
    assert most == 2
    assert len(done) == 5
    totals = repeats.totals()
    assert (totals.same, totals.different, totals.failed, totals.not_replayed) == (2, 1, 0, 2)
    assert totals.tokens == (12, 12)
    assert shown[0].split() == ["run", "result", "tokens", "seconds", "error"]
    assert shown[-2:] == [
        "5 runs: 2 same, 1 different, 2 not replayed",
        "tokens 12 → 12 · time 9.00 s → 9.00 s",
    ]


async def test_no_run_at_all_is_told() -> None:
    async def replay(_: str) -> Replay:
        raise AssertionError

    shown: list[str] = []
    assert await Repeats(replay, 2, shown.append, colour=False).run([]) == []
    assert shown[-1] == "no run is like that"
