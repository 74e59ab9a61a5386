"""One child process: started in its own group, heard line by line, and never left behind."""

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from cli.exits import MissingBinary

LINE_BYTES = 1 << 20  # a longer line is cut in two
_TAIL = 20
_POLL = 0.02
_PR_SET_PDEATHSIG = 1
# Looked up now: between fork and exec nothing may be imported.
_LIBC: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Command:
    """How a process is started. `argv[0]` is its title; `executable` the program's path."""

    argv: Sequence[str]
    executable: str
    env: Mapping[str, str] = field(default_factory=dict)
    before_exec: Callable[[], None] | None = None
    orphaned: signal.Signals = signal.SIGKILL  # what it gets when the supervisor dies


class Ready(msgspec.Struct):
    """What a process says when it serves: the port that it listens on, or its metrics' port.

    With `loading` it does not serve yet, but says how far it is.
    """

    port: int = 0
    loading: str = ""


class Service(Protocol):
    """What the supervisor keeps running."""

    name: str
    kind: str
    port: int
    stop_signal: signal.Signals
    quiet_below: str  # its lines under this level are kept in its file only

    def command(self, ready_fd: int) -> Command:
        """Say how to start it now."""
        ...

    async def until_ready(self, child: "Child") -> Ready:
        """Return when the child serves; wait for ever if it never does."""
        ...

    def retries(self, child: "Child") -> bool:
        """Tell whether a first start that failed may succeed if it is tried again at once."""
        ...


class _Lines(asyncio.Protocol):
    """Splits what comes through a pipe into lines."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self._on_line = on_line
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            if line:
                self._on_line(line)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._rest:
            self._on_line(self._rest)
            self._rest = b""


async def _open_lines(on_line: Callable[[bytes], None]) -> int:
    """Make a pipe whose lines go to `on_line`; returns the end to write to."""
    read, write = os.pipe()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: _Lines(on_line), os.fdopen(read, "rb", buffering=0))
    return write


class Child:
    """A running process."""

    def __init__(self) -> None:
        self.pid = 0
        self.late = False  # killed because it was not ready in time
        self.tail: deque[dict[str, Any]] = deque(maxlen=_TAIL)  # its last lines, parsed
        self.heard_at = time.monotonic()  # when it last said that it gets on
        self.told: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    async def start(
        cls, build: Callable[[int], Command], on_line: Callable[[bytes], dict[str, Any]]
    ) -> "Child":
        """Start what `build` says; it gets the descriptor that the child reports on."""
        child = cls()
        # Own pipes: asyncio's would keep `wait` waiting for grandchildren that hold them open.
        output = await _open_lines(lambda line: child.tail.append(on_line(line)))
        ready_fd = await _open_lines(child._on_ready)
        try:
            command = build(ready_fd)
            child._process = await asyncio.create_subprocess_exec(
                *command.argv,
                executable=command.executable,
                env=dict(command.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(ready_fd,),
                start_new_session=True,  # a Ctrl-C at the terminal is the supervisor's to handle
                preexec_fn=_in_child(os.getpid(), command),
            )
        except FileNotFoundError:
            raise MissingBinary(
                f"{command.executable} is missing: remove .venv and start again"
            ) from None
        finally:
            os.close(output)
            os.close(ready_fd)
        child.pid = child._process.pid
        return child

    def _on_ready(self, line: bytes) -> None:
        word = msgspec.json.decode(line, type=Ready)
        self.heard_at = time.monotonic()
        if not word.loading and not self.told.done():
            self.told.set_result(word)

    async def wait(self) -> int:
        """Wait for its end; negative = the signal that killed it."""
        assert self._process is not None
        return await self._process.wait()

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.returncode is None

    def send(self, number: signal.Signals) -> None:
        """Signal the process itself."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it and what it started."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    async def stop(self, number: signal.Signals, timeout: float) -> None:
        """Ask it to end; kill it if it has not after `timeout` seconds."""
        self.send(number)
        try:
            await asyncio.wait_for(self.wait(), max(timeout, 0.05))
        except TimeoutError:
            self.kill()
            await self.wait()

    def found_its_port_taken(self) -> bool:
        """Tell whether it said that somebody else has its port."""
        return any("address already in use" in str(line.get("event")).lower() for line in self.tail)

    def last_words(self) -> str:
        """What it said last, preferably of what went wrong."""
        faults = [event for event in self.tail if event.get("level") in ("error", "critical")]
        said = (faults or list(self.tail))[-1:]
        return str(said[0].get("event")).removeprefix("jan: ") if said else "it said nothing"


def _in_child(parent: int, command: Command) -> Callable[[], None]:
    """What runs between fork and exec."""

    def prepare() -> None:
        if command.before_exec is not None:
            command.before_exec()
        # After a change of user, which clears it.
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(command.orphaned))
            if os.getppid() != parent:  # it died before we asked to be told
                os._exit(1)

    return prepare


def raise_file_limit() -> None:
    """Allow as many open files as the system lets us: a stream is one, and 1024 is few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def end(pids: Iterable[int], ours: Callable[[int], bool], timeout: float) -> list[int]:
    """End processes that are not our children: ask, wait, then kill; returns those it asked.

    `ours` is asked before each signal, as a pid may have gone to somebody else meanwhile. A process
    that nobody has waited for yet counts as ended: it has no command line any more.
    """
    asked = [pid for pid in pids if ours(pid)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in filter(ours, asked):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + timeout
        while any(map(ours, asked)) and time.monotonic() < until:
            time.sleep(_POLL)
    return asked
