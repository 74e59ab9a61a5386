"""`jan ps`: the server's processes, from state.json and the system."""

import argparse
import time

import msgspec
import psutil

from cli.state import Process, State, default_data, load

HELP = "list the server's processes"
SAMPLE_SECONDS = 0.2
COLUMNS = ("name", "kind", "pid", "port", "uptime", "cpu", "rss", "restarts", "state")


class Row(msgspec.Struct):
    """One process: `cpu` in percent of one core, with its children; `rss` in bytes."""

    name: str
    kind: str
    pid: int
    port: int
    metrics_port: int
    uptime: float
    cpu: float
    rss: int
    restarts: int
    state: str
    joined: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", default=default_data(), help="of which server")
    parser.add_argument("--json", action="store_true", help="for programs")


async def main(args: argparse.Namespace) -> int:
    """Print the processes; 1 if the server does not run."""
    state = load(args.data)
    rows = look(state)
    if args.json:
        print(msgspec.json.encode(rows).decode())
    elif rows:
        print(table(rows))
    if not state.running and not args.json:
        print(f"no server runs on {state.data.path}")
    return 0 if state.running else 1


def look(state: State) -> list[Row]:
    """Measure every process over a moment."""
    families = {process.pid: _family(process.pid) for process in state.processes if process.pid}
    before = {pid: _cpu_seconds(family) for pid, family in families.items()}
    begun = time.monotonic()
    time.sleep(SAMPLE_SECONDS if families else 0)
    took = time.monotonic() - begun
    return [
        _row(state, process, families.get(process.pid, []), before.get(process.pid, 0.0), took)
        for process in state.processes
    ]


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _cpu_seconds(family: list[psutil.Process]) -> float:
    total = 0.0
    for process in family:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def _rss(family: list[psutil.Process]) -> int:
    total = 0
    for process in family:
        try:
            memory = process.memory_info()
        except psutil.Error:
            continue
        # PostgreSQL's processes share their buffers: counted once for each they would be many.
        total += memory.rss - (getattr(memory, "shared", 0) if process is not family[0] else 0)
    return total


def _row(
    state: State, process: Process, family: list[psutil.Process], before: float, took: float
) -> Row:
    alive = bool(family) and state.data.owns(process.pid)
    condition = "frozen" if is_frozen(process.pid) else process.state
    return Row(
        name=process.name,
        kind=process.kind,
        pid=process.pid,
        port=process.port,
        metrics_port=process.metrics_port,
        uptime=round(time.time() - process.started_at, 1) if alive else 0.0,
        cpu=round(max(_cpu_seconds(family) - before, 0.0) / took * 100, 1) if alive else 0.0,
        rss=_rss(family) if alive else 0,
        restarts=process.restarts,
        state=condition if alive else "dead",
        joined=process.joined,
    )


def is_frozen(pid: int) -> bool:
    """Tell whether somebody has stopped a process with SIGSTOP."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def table(rows: list[Row]) -> str:
    """Lay the rows out for a person."""
    lines = [[column.upper() for column in COLUMNS]]
    for row in rows:
        cells = {
            **msgspec.structs.asdict(row),
            "port": row.port or row.metrics_port or "",
            "uptime": _duration(row.uptime),
            "cpu": f"{row.cpu:.1f}%",
            "rss": f"{row.rss / 1e6:.0f}M",
            "state": f"{row.state} (joined)" if row.joined else row.state,
        }
        lines.append([str(cells[column]) for column in COLUMNS])
    widths = [max(len(line[index]) for line in lines) for index in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
