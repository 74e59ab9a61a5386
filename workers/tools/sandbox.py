"""Running a stranger's code: in bubblewrap, as nobody, with nothing but a processor and a while.

Root's processes are given to a user of their own first, a different one for each call, so that what
breaks out is nobody. Inside there is no network, no other process, and a read-only system; what can
be written is in memory and of bounded size. Limits bound each process; together they are watched
from outside, as no limit of the kernel without cgroups adds them up.
"""

import asyncio
import hashlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
import structlog

from schemas.tool_options import MAX_FILES, MAX_FILES_BYTES, is_file_path
from workers.tools.settings import ToolsSettings

logger = structlog.get_logger()

MAX_FILE: Final = 8 << 20
OUTPUT_KEPT: Final = 64 * 1024  # bytes of stdout, and of stderr
OUTPUT_MOST: Final = 1 << 20  # printed: who prints more is stopped

_GUEST: Final = (Path(__file__).parent / "guest.py").read_text()
_WORK_BYTES: Final = 64 << 20
_TMP_BYTES: Final = 64 << 20
_SHM_BYTES: Final = 16 << 20
_PROCESSES: Final = 64
_LOOK_EVERY: Final = 0.1  # seconds between looks at how much memory they have together
_SYSTEM: Final = ("bin", "sbin", "lib", "lib32", "lib64")
_SELF_TEST: Final = "import socket; print(6 * 7)"


@dataclass(frozen=True)
class Produced:
    """A file that the code gets or made. `name` is its path in the code's folder."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Ran:
    """What running code came to. `stopped` says why it was stopped, if it was."""

    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    seconds: float = 0.0
    stopped: str = ""
    files: list[Produced] = field(default_factory=list)
    left_out: int = 0  # files that were too many or too large


class _Report(msgspec.Struct):
    """The guest's line about what follows it."""

    code: int
    left_out: int
    files: list[tuple[str, int]]


class Sandbox:
    """Made by `open_sandbox`. `lacks` says why it can't be used; empty if it can."""

    def __init__(self, settings: ToolsSettings) -> None:
        self.lacks = ""
        self._memory = settings.python_memory
        self._seconds = settings.python_seconds
        self._python = ""
        self._bwrap = ""
        first = settings.python_uid
        self._uids: asyncio.Queue[int] = asyncio.Queue()
        for uid in range(first, first + settings.slots("python_exec")):
            self._uids.put_nowait(uid)

    async def prove(self) -> None:
        """Find out whether it works here, by using it."""
        self._bwrap = shutil.which("bwrap") or ""
        self._python = shutil.which("python3", path="/usr/local/bin:/usr/bin") or ""
        if not self._bwrap:
            self.lacks = "there is no bubblewrap on the worker's machine (apt install bubblewrap)"
        elif not self._python:
            self.lacks = "there is no python3 under /usr on the worker's machine"
        elif os.geteuid() == 0 and not shutil.which("setpriv"):
            self.lacks = "there is no setpriv on the worker's machine (apt install util-linux)"
        if self.lacks:
            return
        ran = await self.run(_SELF_TEST)
        if ran.stdout != "42\n" or ran.exit_code != 0:
            reason = " ".join(ran.stderr.split())[:200] or ran.stopped or "no word"
            self.lacks = f"bubblewrap does not work on the worker's machine ({reason})"

    async def run(self, code: str, files: Sequence[Produced] = ()) -> Ran:
        """Run code with some files beside it. Cancelled, it leaves nothing behind."""
        uid = await self._uids.get()
        try:
            async with self._started(uid) as (process, report):
                return await self._follow(process, report, code, files)
        finally:
            self._uids.put_nowait(uid)

    @asynccontextmanager
    async def _started(self, uid: int) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
        """Start the guest; yields it and the descriptor to read its report from."""
        reader, writer = os.pipe()
        try:
            process = await self._create(uid, writer)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        try:
            yield process, reader
        finally:
            os.close(reader)
            if process.returncode is None:
                await asyncio.shield(_end(process))

    async def _create(self, uid: int, report: int) -> asyncio.subprocess.Process:
        """Start bubblewrap. Cancelled meanwhile, asyncio would kill it, and not as `_kill` does."""
        creating = asyncio.create_task(
            asyncio.create_subprocess_exec(
                *self._command(uid, report),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(report,),
                env={},
                cwd="/",
                start_new_session=True,
            )
        )
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            await asyncio.shield(_end(await creating))
            raise

    async def _follow(
        self,
        process: asyncio.subprocess.Process,
        report: int,
        code: str,
        files: Sequence[Produced],
    ) -> Ran:
        assert process.stdout is not None
        assert process.stderr is not None
        began = time.monotonic()
        stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        out, err, made = bytearray(), bytearray(), bytearray()
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_watch_memory(process.pid, self._memory, stop))
            reading = [
                tasks.create_task(_read_capped(process.stdout, out, stop)),
                tasks.create_task(_read_capped(process.stderr, err, stop)),
                tasks.create_task(_read_report(report, made)),
            ]
            tasks.create_task(_write(process, self._orders(code, files)))
            ending = tasks.create_task(process.wait())
            ends: set[asyncio.Future[Any]] = {ending, stop}
            await asyncio.wait(ends, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                await _end(process)
            await ending
            watching.cancel()
            await asyncio.wait(reading, timeout=2.0)
            for task in reading:
                task.cancel()
        stopped = stop.result() if stop.done() else ""
        seconds = time.monotonic() - began
        if not stopped and process.returncode != 0 and seconds >= self._seconds:
            stopped = f"time: it ran for more than {self._seconds} s"
        return _to_ran(
            process.returncode,
            out=out,
            err=err,
            made=bytes(made),
            seconds=seconds,
            stopped=stopped,
        )

    def _orders(self, code: str, files: Sequence[Produced]) -> bytes:
        text = code.encode("utf-8", "replace")
        orders = {
            "code": len(text),
            "files": [(file.name, len(file.data)) for file in files],
            "max_files": MAX_FILES,
            "max_file": MAX_FILE,
            "max_bytes": MAX_FILES_BYTES,
            "limits": {
                "RLIMIT_AS": self._memory,
                "RLIMIT_CPU": self._seconds,
                "RLIMIT_FSIZE": _WORK_BYTES,
                "RLIMIT_NPROC": _PROCESSES,
                "RLIMIT_NOFILE": 256,
                "RLIMIT_CORE": 0,
            },
        }
        return b"".join([msgspec.json.encode(orders), b"\n", text, *(file.data for file in files)])

    def _command(self, uid: int, report: int) -> list[str]:
        command = ["nice", "-n", "10"]
        if os.geteuid() == 0:
            command = [*_as_user(uid), *command]
        command += [self._bwrap, "--unshare-all", "--unshare-user", "--disable-userns"]
        command += ["--clearenv", "--cap-drop", "ALL", "--die-with-parent", "--new-session"]
        command += ["--hostname", "sandbox", "--ro-bind", "/usr", "/usr"]
        for name in _SYSTEM:
            path = Path("/") / name
            if path.is_symlink():
                command += ["--symlink", str(path.readlink()), str(path)]
            elif path.exists():
                command += ["--ro-bind", str(path), str(path)]
        command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
        command += ["--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]
        command += ["--proc", "/proc", "--dev", "/dev"]
        for path_inside, size in (
            ("/dev/shm", _SHM_BYTES),  # noqa: S108 - the sandbox's own
            ("/tmp", _TMP_BYTES),  # noqa: S108
            ("/run", 1 << 20),
            ("/work", _WORK_BYTES),
        ):
            command += ["--size", str(size), "--tmpfs", path_inside]
        command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/work"]
        for name, value in _ENVIRONMENT.items():
            command += ["--setenv", name, value]
        return [*command, self._python, "-I", "-c", _GUEST, str(report)]


_ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/work",
    "LANG": "C.UTF-8",
    "PYTHONPATH": "/work",
    "PYTHONUNBUFFERED": "1",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": "/tmp",  # noqa: S108 - the sandbox's own
    "OPENBLAS_NUM_THREADS": "2",
}


def _as_user(uid: int) -> list[str]:
    who = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all"]
    return ["setpriv", *who, "--no-new-privs"]


async def _end(process: asyncio.subprocess.Process) -> None:
    await asyncio.to_thread(_kill, process.pid)
    await process.wait()


def _kill(pid: int) -> None:
    """Kill bubblewrap and its child, with which all in the sandbox dies.

    The child dies with its parent too, but not before bubblewrap has come to arrange that.
    """
    with suppress(ProcessLookupError, ChildProcessError, psutil.Error):
        os.kill(pid, signal.SIGSTOP)  # it shall have no more children than are found
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
        os.kill(pid, signal.SIGKILL)


async def _write(process: asyncio.subprocess.Process, data: bytes) -> None:
    assert process.stdin is not None
    with suppress(OSError):  # the guest may have ended
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()


async def _read_capped(
    stream: asyncio.StreamReader, kept: bytearray, stop: "asyncio.Future[str]"
) -> None:
    """Keep the beginning of what is printed, and stop what prints for ever."""
    total = 0
    while part := await stream.read(65536):
        total += len(part)
        kept += part[: OUTPUT_KEPT - len(kept)]
        if total > OUTPUT_MOST and not stop.done():
            stop.set_result(f"output: it printed more than {OUTPUT_MOST} bytes")


async def _read_report(descriptor: int, kept: bytearray) -> None:
    """Read what the guest hands back, up to what it may."""
    loop = asyncio.get_running_loop()
    os.set_blocking(descriptor, False)
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        while len(kept) <= MAX_FILES_BYTES + OUTPUT_KEPT:
            await ready.wait()
            ready.clear()
            with suppress(BlockingIOError):
                part = os.read(descriptor, 1 << 16)
                if not part:
                    return
                kept += part
    finally:
        loop.remove_reader(descriptor)


async def _watch_memory(pid: int, most: int, stop: "asyncio.Future[str]") -> None:
    """Stop processes that have too much memory together."""
    while not stop.done():
        await asyncio.sleep(_LOOK_EVERY)
        if await asyncio.to_thread(_memory_of, pid) > most and not stop.done():
            stop.set_result(f"memory: it took more than {most >> 20} MiB")


def _memory_of(pid: int) -> int:
    total = 0
    with suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def _to_ran(
    exit_code: int | None,
    *,
    out: bytearray,
    err: bytearray,
    made: bytes,
    seconds: float,
    stopped: str,
) -> Ran:
    code, files, left_out = exit_code, [], 0
    if not stopped:
        head, _, rest = made.partition(b"\n")
        with suppress(msgspec.DecodeError):
            report = msgspec.json.decode(head, type=_Report)
            code, left_out = report.code, report.left_out
            files = _split(report, rest)
    return Ran(
        stdout=_shown(out),
        stderr=_shown(err),
        exit_code=code,
        seconds=round(seconds, 3),
        stopped=stopped,
        files=files,
        left_out=left_out,
    )


def _split(report: _Report, data: bytes) -> list[Produced]:
    """The files of a report, as far as it can be one that the guest made."""
    found = []
    for name, size in report.files[:MAX_FILES]:
        if not 0 <= size <= min(MAX_FILE, len(data)):
            break
        found.append(Produced(_plain(name), data[:size]))
        data = data[size:]
    return found


def _plain(path: str) -> str:
    """A file's path as it can be shown and stored; if it can't be, a name of the file's own."""
    if is_file_path(path):
        return path
    shown = "".join(char if char.isprintable() else "_" for char in path.replace("/", "_"))
    ending = shown.encode()[-200:].decode(errors="ignore")
    # Others may look the same, or have this very name.
    return f"{hashlib.sha256(path.encode()).hexdigest()[:8]}_{ending}"


def _shown(printed: bytearray) -> str:
    return bytes(printed).decode("utf-8", "replace").replace("\x00", "�")


async def open_sandbox(settings: ToolsSettings) -> Sandbox:
    """Make a sandbox, and prove that it works if it is to be used here."""
    sandbox = Sandbox(settings)
    if "python_exec" in settings.tools_queues:
        await sandbox.prove()
        if sandbox.lacks:
            logger.warning("python_exec refuses", reason=sandbox.lacks)
    return sandbox
