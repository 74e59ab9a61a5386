"""`jan log` of a run whose worker was killed."""

import asyncio
import json

import pytest

from tests.faults.conftest import STREAMS, Start
from tests.support.sse import Streams


@pytest.mark.requirement("log.handover")
async def test_the_log_tells_of_a_handover(start: Start) -> None:
    with start("--inference", "2") as case:
        async with case.client() as client:
            streams = Streams(client)
            tasks = case.start(streams)
            await streams.reached(20, STREAMS)
            case.server.kill("inference-1")
            received = await asyncio.gather(*tasks)
        run = max(received, key=lambda one: one.longest_gap)  # the killed worker had it
        told = case.server.jan("log", run.run_id, "--json")
        assert told.returncode == 0, told.stderr.decode()
        story = [json.loads(line) for line in told.stdout.splitlines()]
        for_people = case.server.jan("log", run.run_id).stdout.decode()

    what = [fact["what"] for fact in story]
    expected = ["accepted", "queued", "fence", "picked", "first", "frames"]
    expected += ["handover", "picked", "frames", "commit", "completed", "end"]
    assert what == expected
    assert [fact["at"] for fact in story] == sorted(fact["at"] for fact in story)
    before, after = (fact for fact in story if fact["what"] == "frames")
    [handover] = (fact for fact in story if fact["what"] == "handover")
    assert (before["first"], before["count"]) == (0, after["first"])
    assert handover["first"] == after["first"]
    assert before["count"] + after["count"] == len(run.events)
    assert handover["from"] == "inference-1"
    assert story[what.index("completed")]["attempts"][1]["worker"] == handover["worker"]
    assert "handover" in for_people
    assert f"#0–#{before['count'] - 1}" in for_people
