"""How fast the persistence worker takes the log into the database.

The worker stands still while the log is filled with the facts of many runs, then goes on; the time
until it has acked the last of them is what counts.
"""

import asyncio
import contextlib
import os
import signal
import time

import msgspec

from bus import Ack, Bus, open_bus, streams
from cli.exits import Exit
from cli.launch import LaunchedServer
from cli.measure import cpu
from schemas import ids, subjects
from schemas.commands import RunInference, Target, encode
from schemas.errors import BusError
from schemas.events import Attempt, RunFinished, RunStarted, encode_event, encode_run_accepted

RUNS = 20_000
FACTS_OF_A_RUN = 3
_AT_ONCE = 512
_PATIENCE = 300.0  # seconds until the worker is given up
_REQUEST = msgspec.json.encode(
    {"model": "m", "messages": [{"role": "user", "content": "Tell me a story. " * 40}]}
)
_RESULT = msgspec.json.encode({"id": "chatcmpl", "choices": [{"text": "Once upon. " * 60}]})


class Projection(msgspec.Struct):
    """What was measured; CPU in microseconds for each event."""

    events: int
    seconds: float
    events_per_second: float
    cpu_us_per_event: dict[str, float]


async def measure(server: LaunchedServer, runs: int = RUNS) -> Projection:
    """Fill the log of a server and let its persistence worker catch up. Raises Exit."""
    workers = [process.pid for process in server.processes("persistence")]
    async with contextlib.AsyncExitStack() as stack:
        edge, inference, cli = [
            await stack.enter_async_context(open_bus(server.state.nats_url(user), name="bench"))
            for user in ("edge", "inference", "cli")
        ]
        _signal(workers, signal.SIGSTOP)
        try:
            last = await fill(edge, inference, runs)
        finally:
            before = cpu.by_kind(server.processes())
            _signal(workers, signal.SIGCONT)
        seconds = await _until_acked(cli, last)
        after = cpu.by_kind(server.processes())
    events = runs * FACTS_OF_A_RUN
    used = {kind: (after[kind] - before.get(kind, 0.0)) * 1e6 / events for kind in after}
    return Projection(events, seconds, events / seconds, used)


async def fill(edge: Bus, inference: Bus, runs: int) -> int:
    """Tell the log of so many runs; returns the sequence of the last fact."""
    free, last = asyncio.Semaphore(_AT_ONCE), 0
    failed: list[BusError] = []

    def on_ack(ack: Ack | BusError) -> None:
        nonlocal last
        free.release()
        if isinstance(ack, Ack):
            last = max(last, ack.seq)
        else:
            failed.append(ack)

    for _ in range(runs):
        for bus, subject, data in _story(edge, inference):
            await free.acquire()
            bus.send_stored(subject, data, on_ack, timeout=30.0)
    for _ in range(_AT_ONCE):
        await free.acquire()
    if failed:
        raise Exit(f"the log did not take the facts: {failed[0]}")
    return last


def _story(edge: Bus, inference: Bus) -> list[tuple[Bus, str, bytes]]:
    run_id, now = ids.new_run_id(), time.time()
    job = RunInference(
        run_id=run_id,
        kind="chat",
        edge="edge-1",
        principal="user_bench",
        model="m",
        targets=[Target("bench/m", "remote")],
        created=int(now),
        deadline=now + 600,
        request_id=ids.new_id("req_"),
        stream=True,
        request=msgspec.Raw(_REQUEST),
        api_key="key_bench",
    )
    started = RunStarted(run_id, 1, "inference-1", "bench/m", 10, 0, now)
    finished = RunFinished(
        run_id=run_id,
        status="completed",
        at=now + 1,
        deployment="bench/m",
        attempts=[Attempt(1, "inference-1", 10, now, 0, 128)],
        frames=128,
        first_frame_at=now + 0.1,
        finish_reason="stop",
        usage=msgspec.Raw(b'{"prompt_tokens":30,"completion_tokens":128,"total_tokens":158}'),
        result=msgspec.Raw(_RESULT),
    )
    return [
        (edge, subjects.run_event("accepted", run_id), encode_run_accepted(encode(job), now)),
        (inference, subjects.run_event("started", run_id), encode_event(started)),
        (inference, subjects.run_event("finished", run_id), encode_event(finished)),
    ]


async def _until_acked(bus: Bus, last: int) -> float:
    began = time.monotonic()
    while await streams.ack_floor(bus, subjects.EVENTS, "persistence-log") < last:
        if time.monotonic() - began > _PATIENCE:
            raise Exit("the persistence worker does not catch up")
        await asyncio.sleep(0.1)
    return time.monotonic() - began


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)
