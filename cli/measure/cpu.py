"""How much processor time each part of a running server has used."""

from collections.abc import Iterable

import psutil

from cli.state import Process

PARTS = ("edge", "worker", "nats", "rest")
_PART_OF = {"edge": "edge", "inference": "worker", "nats": "nats"}


def part_of(kind: str) -> str:
    """Which part a kind of process counts to: persistence and PostgreSQL are the rest."""
    return _PART_OF.get(kind, "rest")


def read(processes: Iterable[Process], supervisor: int) -> dict[str, float]:
    """Seconds of processor time by part, children included."""
    used = dict.fromkeys(PARTS, 0.0)
    for process in processes:
        used[part_of(process.kind)] += _seconds(process.pid, children=process.kind == "postgres")
    used["rest"] += _seconds(supervisor, children=False)
    return used


def between(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What was used from one reading to the next."""
    return {part: after[part] - before[part] for part in PARTS}


def _seconds(pid: int, *, children: bool) -> float:
    try:
        process = psutil.Process(pid)
        family = [process, *(process.children(recursive=True) if children else ())]
        times = [member.cpu_times() for member in family]
    except psutil.Error:  # it has just ended
        return 0.0
    return float(sum(time.user + time.system for time in times))


def by_kind(processes: Iterable[Process]) -> dict[str, float]:
    """Seconds of processor time by kind of process, PostgreSQL's children included."""
    used: dict[str, float] = {}
    for process in processes:
        seconds = _seconds(process.pid, children=process.kind == "postgres")
        used[process.kind] = used.get(process.kind, 0.0) + seconds
    return used
