"""`jan bench` as a person runs it. It gives figures; how good they are passes or fails nothing."""

import subprocess
import sys

import msgspec

from cli.launch import environment
from cli.measure.report import Report
from cli.measure.responses import TOGETHER, Figures


def bench(*arguments: str) -> bytes:
    """Run a short one; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", "bench", "--json", "--seconds", "1", *arguments],
        env=environment({}),
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_a_bench_gives_figures_and_loses_nothing() -> None:
    told = bench("--only", "plain:1", "--only", "stream:16")
    report = msgspec.json.decode(told, type=Report)
    assert [(row.scenario, row.in_flight) for row in report.rows] == [("plain", 1), ("stream", 16)]
    for row in report.rows:
        assert row.server.requests > 0
        assert (row.server.failed, row.server.lost, row.server.doubled) == (0, 0, 0)
        assert set(row.cpu_us_per_request) == {"edge", "worker", "nats", "rest"}


def test_a_bench_of_responses_sees_all_of_them_end() -> None:
    found = msgspec.json.decode(bench("--responses"), type=Figures)
    kinds = ["chat", "response", "one round of tools", "three rounds of tools"]
    assert [one.what for one in found.alone] == kinds
    assert all(one.requests and not one.failed for one in found.alone)
    assert found.ratio > 0
    assert found.together.completed == TOGETHER
    assert set(found.together.memory_before) == set(found.together.memory_after)
    assert {"edge", "responses", "inference", "tools", "nats"} <= set(found.together.memory_before)
