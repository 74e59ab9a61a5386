"""`jan bench` as a person runs it. It gives figures; how good they are passes or fails nothing."""

import subprocess
import sys

import msgspec

from cli.launch import environment
from cli.measure.report import Report


def test_a_bench_gives_figures_and_loses_nothing() -> None:
    loads = ["--only", "plain:1", "--only", "stream:16"]
    done = subprocess.run(
        [sys.executable, "-m", "cli", "bench", "--json", "--seconds", "1", *loads],
        env=environment({}),
        capture_output=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    report = msgspec.json.decode(done.stdout, type=Report)
    assert [(row.scenario, row.in_flight) for row in report.rows] == [("plain", 1), ("stream", 16)]
    for row in report.rows:
        assert row.server.requests > 0
        assert (row.server.failed, row.server.lost, row.server.doubled) == (0, 0, 0)
        assert set(row.cpu_us_per_request) == {"edge", "worker", "nats", "rest"}
