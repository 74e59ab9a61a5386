"""A whole server as a child process, on its own data: what the bench and the tests run against."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from cli.state import ROOT, Process, State, load

READY_SECONDS = 90.0
_FOREIGN = ("JAN_", "OPENAI_", "ANTHROPIC_")  # a person's own settings must not change a test


class NotReady(Exception):
    """The server ended, or did not become ready in time; the message has its last lines."""


class LaunchedServer:
    """One `jan up` and its log. Started with `start`, ended with `stop`."""

    def __init__(
        self, data: Path, *arguments: str, env: Mapping[str, str] | None = None, log: Path
    ) -> None:
        self.data = data
        self.log = log
        self.url = ""  # of the first edge, with /v1
        self._arguments = arguments
        self._env = environment(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def state(self) -> State:
        """What state.json says now."""
        return load(self.data)

    @property
    def edges(self) -> list[str]:
        """Every edge's base URL, with /v1."""
        return [f"{url}/v1" for url in self.state.edges]

    def processes(self, kind: str = "") -> list[Process]:
        """The running processes, or those of one kind."""
        return [found for found in self.state.processes if kind in ("", found.kind)]

    def process(self, name: str) -> Process:
        """One process, by its name: `edge-1`, `inference-2`, `nats`."""
        return next(found for found in self.state.processes if found.name == name)

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        """Send one process a signal; returns its process id."""
        pid = self.process(name).pid
        os.kill(pid, how)
        return pid

    def start(self, timeout: float = READY_SECONDS) -> None:
        """Start it, and return when it serves. Raises NotReady."""
        up = [sys.executable, "-m", "cli", "up", "--port", "0"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*up, "--data", str(self.data), *self._arguments],
                env=self._env,
                cwd=self.log.parent,  # where no .env lies
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.url, self._ready = "", threading.Event()
        listening = (self._process, self._ready)
        threading.Thread(target=self._listen, args=listening, daemon=True).start()
        if not self._ready.wait(timeout) or not self.url:
            self.stop()
            raise NotReady(f"the server is not ready: {self.last_lines()}")

    def jan(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        """Run another verb on this server's data to its end."""
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments, "--data", str(self.data)],
            env=self._env,
            cwd=self.log.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )

    def create_key(self, *arguments: str) -> str:
        """Create an API key."""
        done = self.jan("keys", "create", "--json", *arguments)
        if done.returncode:
            raise NotReady(f"no key was created: {done.stderr.decode(errors='replace')}")
        return str(msgspec.json.decode(done.stdout)["key"])

    def last_lines(self, count: int = 30) -> str:
        """The end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def stop(self, timeout: float = 15) -> int:
        """Stop it in order; kills it after `timeout` seconds. Returns its exit code."""
        if self._process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its children die with it
            return self._process.wait(timeout)

    def _listen(self, process: subprocess.Popen[bytes], ready: threading.Event) -> None:
        """Take the address from the one line on its standard output."""
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if line.startswith(b"ready: "):
                    self.url = line.removeprefix(b"ready: ").decode().strip()
                    ready.set()
        ready.set()


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without a person's own settings, and with `extra`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return inherited | {"PYTHONPATH": str(ROOT)} | dict(extra)


@contextlib.contextmanager
def launched(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[LaunchedServer]:
    """Run a server in a temporary folder, and remove both."""
    with tempfile.TemporaryDirectory(prefix="jan-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # PostgreSQL runs as somebody else when we are root
        server = LaunchedServer(
            Path(folder, "data"), *arguments, env=env, log=Path(folder, "server.log")
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()
