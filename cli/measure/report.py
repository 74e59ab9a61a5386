"""The figures as text for people, or as JSON."""

import platform
from collections.abc import Sequence
from typing import TextIO

import msgspec
import psutil

from cli.measure.scenarios import Row

HOT = ("edge", "worker", "nats")  # what a request must pass; the rest follows behind it

_HEAD = (
    f"{'load':<14}{'in flight':>10}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'added p50':>11}"
    f"{'added p99':>11}{'TTFT p50':>10}{'p99':>8}{'added':>8}{'tokens/s':>10}"
    f"{'lost':>6}{'doubled':>9}{'late':>6}{'failed':>8}"
)
_CPU_HEAD = f"{'CPU':<14}{'in flight':>10}{'edge':>9}{'worker':>9}{'nats':>9}{'sum':>9}{'rest':>9}"


class Report(msgspec.Struct):
    """A whole run: where it was and what it gave."""

    python: str
    system: str
    cores: int
    load_before: float
    rows: list[Row]


def to_report(rows: Sequence[Row], load_before: float) -> Report:
    """Put the rows together with what they depend on."""
    return Report(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=psutil.cpu_count() or 0,
        load_before=load_before,
        rows=list(rows),
    )


def print_report(report: Report, out: TextIO) -> None:
    """Print three tables: what clients see, the upstream alone, and the processor time."""
    print(
        f"\nPython {report.python}, {report.system}, {report.cores} cores, "
        f"load {report.load_before:.1f} before the start\n\n{_HEAD}",
        file=out,
    )
    for row in report.rows:
        print(_client_line(row), file=out)
    print(f"\nthe same loads straight on the upstream\n{_HEAD}", file=out)
    for row in report.rows:
        straight = msgspec.structs.replace(
            row, server=row.upstream, added_p50=0.0, added_p99=0.0, added_first_token_p50=0.0
        )
        print(_client_line(straight), file=out)
    print(f"\nmicroseconds of processor time per request\n{_CPU_HEAD}", file=out)
    for row in report.rows:
        print(_cpu_line(row, row.cpu_us_per_request), file=out)
    print(f"\nmicroseconds of processor time per token\n{_CPU_HEAD}", file=out)
    for row in report.rows:
        if row.cpu_us_per_token:
            print(_cpu_line(row, row.cpu_us_per_token), file=out)
    for row in report.rows:
        if row.server.first_failure:
            print(f"\n{row.scenario} {row.in_flight}: {row.server.first_failure}", file=out)


def _client_line(row: Row) -> str:
    got = row.server
    streamed = got.tokens > 0
    return (
        f"{row.scenario:<14}{row.in_flight:>10}{got.requests_per_second:>9.1f}"
        f"{got.p50:>9.2f}{got.p99:>9.2f}{row.added_p50:>11.2f}{row.added_p99:>11.2f}"
        + _when(streamed, f"{got.first_token_p50:.2f}", 10)
        + _when(streamed, f"{got.first_token_p99:.2f}", 8)
        + _when(streamed, f"{row.added_first_token_p50:.2f}", 8)
        + _when(streamed, f"{got.tokens_per_second:.0f}", 10)
        + _when(streamed, str(got.lost), 6)
        + _when(streamed, str(got.doubled), 9)
        + _when(row.scenario == "paced", str(got.late), 6)
        + f"{got.failed:>8}"
    )


def _when(applies: bool, text: str, width: int) -> str:
    return f"{text if applies else '-':>{width}}"


def _cpu_line(row: Row, cpu: dict[str, float]) -> str:
    hot = "".join(f"{cpu.get(part, 0.0):>9.1f}" for part in HOT)
    total = sum(cpu.get(part, 0.0) for part in HOT)
    return f"{row.scenario:<14}{row.in_flight:>10}{hot}{total:>9.1f}{cpu.get('rest', 0.0):>9.1f}"
