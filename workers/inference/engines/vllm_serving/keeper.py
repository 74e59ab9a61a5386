"""Ends vLLM's processes when the worker is gone: they would keep the GPU's memory for ever.

Run as a process, it reads process ids from its standard input, and kills them at its end.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable

import psutil

_TRACKER = "multiprocessing.resource_tracker"


class Keeper:
    """The worker's side: whatever ends the worker closes the pipe to the keeper's process."""

    def __init__(self) -> None:
        self._others = {child.pid for child in _children()}
        self._told: set[int] = set()
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self._others.add(self._process.pid)

    def look(self) -> None:
        """Tell the keeper of the processes that were started since it is there."""
        new = {child.pid for child in _children()} - self._others - self._told
        self._told |= new
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(b"".join(b"%d\n" % pid for pid in new))
            self._process.stdin.flush()

    def close(self) -> None:
        """End what is left of vLLM, and the keeper. Blocks for a moment."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if not _tidies(child)]


def _tidies(process: psutil.Process) -> bool:
    """Tell whether it is Python's own, which removes shared memory after the last of the others."""
    with contextlib.suppress(psutil.Error):
        return any(_TRACKER in word for word in process.cmdline())
    return False


def keep(lines: Iterable[str]) -> None:
    """Hold on to the processes that the lines name, and kill them when there are no more lines."""
    held = []
    for line in lines:
        with contextlib.suppress(ProcessLookupError):
            held.append(os.pidfd_open(int(line)))  # the number may be another's by the end
    for process in held:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it leaves after the worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep(sys.stdin)
