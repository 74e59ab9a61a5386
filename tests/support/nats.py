"""A real nats-server for tests: own folder, free port, the permissions of nats/server.conf."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NATS = Path(__file__).parents[2] / "nats"
USERS = ("edge", "inference", "persistence", "migrate", "cli")

_LISTENING = re.compile(rb"Listening for client connections on [^ ]*:(\d+)")


class NatsServer:
    """One server over one store: killed, frozen and started again, it keeps its port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._passwords = {user: "p" + secrets.token_hex(8) for user in USERS}
        self._process: subprocess.Popen[bytes] | None = None
        self._log: list[bytes] = []
        self.port = 0

    @property
    def pid(self) -> int:
        """The running server's process id."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def passwords(self) -> dict[str, str]:
        """Each user's password."""
        return dict(self._passwords)

    @property
    def urls(self) -> dict[str, str]:
        """Each user's url, password included."""
        return {user: self.url(user) for user in USERS}

    def url(self, user: str) -> str:
        """Where this user connects, password included."""
        return f"nats://{user}:{self._passwords[user]}@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and return when it serves."""
        assert self._process is None, "the server is running"
        env = {f"JAN_NATS_{user.upper()}_PASSWORD": self._passwords[user] for user in USERS}
        arguments = ["-a", "127.0.0.1", "-p", str(self.port or -1), "-sd", str(self._folder)]
        self._process = subprocess.Popen(
            [_binary(), "-c", str(NATS / "server.conf"), *arguments],
            env={"PATH": os.environ.get("PATH", ""), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        ready = threading.Event()
        threading.Thread(target=self._follow, args=(self._process, ready), daemon=True).start()
        if not ready.wait(20) or self._process.poll() is not None:
            self.kill()
            raise RuntimeError("nats-server does not start:\n" + self.log())

    def stop(self) -> None:
        """Stop it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it do nothing while its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """What it has logged so far, over all its starts."""
        return b"".join(self._log).decode(errors="replace")

    def _follow(self, process: subprocess.Popen[bytes], ready: threading.Event) -> None:
        """Keep the log, take the port from it, and tell when it is ready or has ended."""
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self._log.append(line)
                if found := _LISTENING.search(line):
                    self.port = int(found[1])
                if b"Server is ready" in line:
                    ready.set()
        process.wait()
        ready.set()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@contextmanager
def running_nats(folder: Path) -> Iterator[NatsServer]:
    """Run a server with its store under `folder`; without the binary skip, or fail in CI."""
    server = NatsServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _binary() -> str:
    """The server that is installed beside this Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("nats-server", path=path)
    if found is not None:
        return found
    if os.environ.get("CI"):
        pytest.fail("nats-server is not installed")
    pytest.skip("nats-server is not installed")
