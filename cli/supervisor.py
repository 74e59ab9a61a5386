"""The supervisor: starts the parts in order, restarts what dies, stops everything in order."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli.exits import Exit, exit_of
from cli.listen import reachable
from cli.logs import Logs
from cli.process import Child, Command, Ready, Service, end
from cli.state import ROOT, Data, Process, Record

READY_SECONDS = 60  # a slow disk's first start; a part that is silent for longer does not work
LOADING_SECONDS = 1800  # a large model from a slow disk, as long as its worker says that it gets on
STOP_SECONDS = 4.7  # everything is down 5 s after the signal, with a rest for the slow machine
LEFTOVER_SECONDS = 5
QUICK_DEATHS = 3
QUICK_SECONDS = 10.0
LONGEST_PAUSE = 10.0
# Tells a worker of long runs to hand its runs back instead of waiting for their ends: it is stopped
# with the whole server, or for new code. On SIGTERM alone it drains (`JAN_DRAIN_TIMEOUT`).
HURRY = signal.SIGUSR1
HURRIED = ("inference", "responses", "tools")
# How much of STOP_SECONDS has passed when the parts of each kind are killed if they still run.
STOP_ORDER = (("edge", 0.72), ("worker", 0.86), ("postgres", 0.95), ("nats", 1.0))
SOURCES = ("schemas", "bus", "edge", "workers", "cli")
SOURCE_POLL_SECONDS = 0.5


class Backoff:
    """When to restart: at once, but ever later once a process has died often within seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deaths: deque[float] = deque(maxlen=QUICK_DEATHS)
        self._pause = 0.0

    def pause(self) -> float:
        """Count a death; returns the seconds to wait before the restart."""
        now = self._clock()
        self._deaths.append(now)
        often = len(self._deaths) == QUICK_DEATHS and now - self._deaths[0] <= QUICK_SECONDS
        self._pause = min(max(self._pause * 2, 0.5), LONGEST_PAUSE) if often else 0.0
        return self._pause


class OwnProcess:
    """One of our own processes: an edge or a worker."""

    stop_signal = signal.SIGTERM
    quiet_below = "debug"

    def __init__(
        self,
        name: str,
        kind: str,
        verb: list[str],
        data: Data,
        environment: Mapping[str, str],
        *,
        host: str = "",
        port: int = 0,
    ) -> None:
        self.name = name
        self.kind = kind
        self.host = host
        self.port = port
        self._verb = verb
        self._data = data
        self._environment = environment

    def command(self, ready_fd: int) -> Command:
        """Run the verb; it tells through the descriptor when it serves."""
        argv = [sys.executable, "-m", "cli", *self._verb, "--name", self.name]
        argv += ["--data", str(self._data.path), "--ready-fd", str(ready_fd)]
        if self.host:
            argv += ["--host", self.host, "--port", str(self.port)]
        return Command(argv=argv, executable=sys.executable, env=self._environment)

    async def until_ready(self, child: Child) -> Ready:
        """Wait until it tells."""
        return await child.told

    def retries(self, child: Child) -> bool:  # noqa: ARG002
        """A part of ours that fails at its first start fails for good."""
        return False


@dataclass
class Kept:
    """A service and how it is doing."""

    service: Service
    process: Process
    child: Child | None = None
    asked_to_restart: bool = False
    backoff: Backoff = field(default_factory=Backoff)


class Supervisor:
    """Keeps services running until it is told to stop."""

    def __init__(self, data: Data, logs: Logs, record: Record) -> None:
        self.data = data
        self.record = record
        self._logs = logs
        self._kept: dict[str, Kept] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> "Supervisor":
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._tasks is not None
        try:
            await self.stop()
        finally:
            await self._tasks.__aexit__(None, None, None)

    async def start(self, services: Iterable[Service]) -> None:
        """Start services beside each other; returns when all serve. Raises Exit if one can't."""
        assert self._tasks is not None
        first: list[asyncio.Future[None]] = []
        for service in services:
            process = Process(name=service.name, kind=service.kind, pid=0)
            kept = self._kept[service.name] = Kept(service, process)
            serving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            first.append(serving)
            self._tasks.create_task(self._keep(kept, serving))
        try:
            await asyncio.gather(*first)
        finally:
            for serving in first:
                serving.cancel()

    async def _keep(self, kept: Kept, serving: asyncio.Future[None]) -> None:
        """Run one service over and over, until the supervisor stops."""
        try:
            await self._first_start(kept)
        except Exit as exit:
            if not serving.done():
                serving.set_exception(exit)
            return
        if not serving.done():
            serving.set_result(None)
        while not self._stopping.is_set():
            code = await kept.child.wait() if kept.child else 1
            if not self._stopping.is_set():
                await self._pause(kept, code)
            if not self._stopping.is_set():
                await self._relaunch(kept)

    async def _first_start(self, kept: Kept) -> None:
        name = kept.service.name
        while not await self._launch(kept):
            child = kept.child
            if child is None or self._stopping.is_set():
                raise Exit("stopped")
            if child.late:
                raise Exit(f"{name} is not ready after {READY_SECONDS} s: {child.last_words()}")
            if not kept.service.retries(child):
                code = await child.wait()
                raise exit_of(code, f"{name} did not start: {child.last_words()}")

    async def _relaunch(self, kept: Kept) -> None:
        """Launch again; a failure counts as one more death."""
        try:
            await self._launch(kept)
        except (Exit, OSError) as error:
            self._logs.say(f"{kept.service.name} can't be started: {error}", level="error")
            kept.child = None

    async def _launch(self, kept: Kept) -> bool:
        """Start it; returns whether it serves: it may end instead, or take too long."""
        service, process = kept.service, kept.process
        process.state = "starting"
        process.started_at = time.time()
        child = kept.child = await Child.start(
            service.command,
            lambda line: self._logs.take(service.name, line, service.quiet_below),
        )
        if self._stopping.is_set():
            child.kill()
            return False
        process.pid = child.pid
        self.write()
        ready = asyncio.ensure_future(service.until_ready(child))
        ended = asyncio.ensure_future(child.wait())
        try:
            await _first_of(ready, ended, child)
            if ready.done() and child.alive:
                self._serves(kept, ready.result())
                return True
            if child.alive:
                child.late = True
                child.kill()
                await child.wait()
            return False
        finally:
            ready.cancel()
            ended.cancel()

    def _serves(self, kept: Kept, ready: Ready) -> None:
        process = kept.process
        process.state = "ready"
        if kept.service.kind in ("edge", "nats", "postgres"):
            process.port = kept.service.port = ready.port
        if isinstance(kept.service, OwnProcess):
            process.metrics_port = ready.port
        self.write()
        seconds = round(time.time() - process.started_at, 2)
        self._logs.say(f"{process.name} is ready", pid=process.pid, port=ready.port, took=seconds)

    async def _pause(self, kept: Kept, code: int) -> None:
        """Say what happened, and wait before the restart if it happens too often."""
        process = kept.process
        process.restarts += 1
        process.state = "restarting"
        if kept.asked_to_restart:
            kept.asked_to_restart = False
            return
        pause = kept.backoff.pause()
        self._logs.say(
            f"{process.name} {_how(code)}: it is started again",
            level="warning",
            pid=process.pid,
            restarts=process.restarts,
            after=pause,
        )
        self.write()
        if pause:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    def write(self) -> None:
        """Rewrite state.json."""
        self.record.processes = [kept.process for kept in self._kept.values()]
        edges = [kept for kept in self._kept.values() if kept.service.kind == "edge"]
        self.record.urls.edges = [_edge_url(kept.service) for kept in edges if kept.service.port]
        if self.record.urls.edges:
            self.record.urls.api = f"{self.record.urls.edges[0]}/v1"
        for kept in self._kept.values():
            if kept.service.kind in ("nats", "postgres"):
                self.record.ports[kept.service.kind] = kept.service.port
        self.data.write(self.record)

    async def run_once(self, name: str, command: Callable[[int], Command]) -> None:
        """Run something to its end, quietly. Raises Exit with what it said last if it fails."""
        child = await Child.start(command, lambda line: self._logs.take(name, line, "warning"))
        try:
            code = await child.wait()
        finally:
            child.kill()
        if code != 0:
            raise exit_of(code, f"{name} failed: {child.last_words()}")

    def kill(self) -> None:
        """Kill everything now, for those who can't wait."""
        for kept in self._kept.values():
            if kept.child is not None:
                kept.child.kill()

    async def restart_own(self) -> None:
        """Restart our own processes, one kind after the other, as a change of their code asks."""
        for kept in self._kept.values():
            if isinstance(kept.service, OwnProcess) and kept.child and kept.child.alive:
                kept.asked_to_restart = True
                await _stop(kept.service, kept.child, STOP_SECONDS)

    async def stop(self) -> None:
        """Stop everything: edges, workers, PostgreSQL, nats-server."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        begun = time.monotonic()
        for group, share in STOP_ORDER:
            left = begun + STOP_SECONDS * share - time.monotonic()
            members = [kept for kept in self._kept.values() if _group(kept.service.kind) == group]
            stops = [
                _stop(kept.service, kept.child, left)
                for kept in members
                if kept.child is not None and kept.child.alive
            ]
            await asyncio.gather(*stops)
        self.record.processes = []
        self.record.supervisor = 0
        self.data.write(self.record)
        if self._kept:
            self._logs.say("stopped", took=round(time.monotonic() - begun, 2))


async def _first_of(
    ready: "asyncio.Future[Ready]", ended: "asyncio.Future[int]", child: Child
) -> None:
    """Return when a child serves, has ended, or has been silent or loading for too long."""
    last = time.monotonic() + LOADING_SECONDS
    while not (ready.done() or ended.done()):
        left = min(child.heard_at + READY_SECONDS, last) - time.monotonic()
        if left <= 0:
            return
        await asyncio.wait((ready, ended), timeout=left, return_when=asyncio.FIRST_COMPLETED)


async def _stop(service: Service, child: Child, timeout: float) -> None:
    if service.kind in HURRIED:
        child.send(HURRY)
    await child.stop(service.stop_signal, timeout)


def _group(kind: str) -> str:
    return kind if kind in ("edge", "postgres", "nats") else "worker"


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _edge_url(service: Service) -> str:
    host = service.host if isinstance(service, OwnProcess) else ""
    return f"http://{reachable(host)}:{service.port}"


def end_leftovers(data: Data, logs: Logs) -> None:
    """End processes that an earlier supervisor left when it was killed."""
    left = [process.pid for process in data.read().processes]
    ended = end(left, data.owns, LEFTOVER_SECONDS)
    if ended:
        logs.say("ended what an earlier start had left", level="warning", pids=ended)


def _sources() -> dict[str, float]:
    """When each of our source files was changed."""
    found = {}
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            with contextlib.suppress(OSError):
                found[str(path)] = path.stat().st_mtime
    return found


async def on_source_change(act: Callable[[list[str]], Awaitable[None]]) -> None:
    """Call `act` with the changed files whenever our source changes, for ever."""
    seen = await asyncio.to_thread(_sources)
    while True:
        await asyncio.sleep(SOURCE_POLL_SECONDS)
        found = await asyncio.to_thread(_sources)
        if found != seen:
            changed = [
                str(Path(path).relative_to(ROOT)) for path, _ in found.items() ^ seen.items()
            ]
            seen = found
            await act(sorted(set(changed)))


def environment(data: Data, extra: Mapping[str, str]) -> dict[str, str]:
    """What our own processes inherit."""
    inherited = dict(os.environ) | {"PYTHONUNBUFFERED": "1", "JAN_DATA": str(data.path)}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return inherited | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))} | dict(extra)
