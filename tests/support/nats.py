"""A real nats-server for tests: own folder, free port, the permissions of nats/server.conf.

with running_nats(tmp_path) as nats:
    await migrate(nats)
    async with open_bus(nats.url("edge"), name="edge-1") as bus: ...
"""

import os
import random
import secrets
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bus.opening import connect
from bus.topology import Change, apply
from schemas.providers import Discovered, Providers, default_providers
from tests.support.programs import program

NATS = Path(__file__).parents[2] / "nats"
USERS = ("edge", "inference", "responses", "tools", "persistence", "migrate", "cli")

# Under the range that systems take outgoing ports from: while the server is down, a client that
# retries a port of that range can connect to itself.
_PORTS = range(20_000, 32_000)


class NatsServer:
    """One server over one store: killed, frozen and started again, it keeps its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        for port in [self.port] if self.port else random.sample(_PORTS, 10):
            self.port = port
            if self._starts():
                return
            if "address already in use" not in self.log():
                break
        raise RuntimeError("nats-server does not start:\n" + self.log())

    def _starts(self) -> bool:
        env = {f"JAN_NATS_{user.upper()}_PASSWORD": self._passwords[user] for user in USERS}
        arguments = ["-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self.folder)]
        self._process = subprocess.Popen(
            [program("nats-server"), "-c", str(NATS / "server.conf"), *arguments],
            env={"PATH": os.environ.get("PATH", ""), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        done = threading.Event()
        threading.Thread(target=self._follow, args=(self._process, done), daemon=True).start()
        if done.wait(20) and self._process.poll() is None:
            return True
        self.kill()
        return False

    def stop(self) -> None:
        """Stop it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it do nothing while its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)  # its threads stop a little later

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """What it has logged so far, over all its starts."""
        return b"".join(self._log).decode(errors="replace")

    def _follow(self, process: subprocess.Popen[bytes], done: threading.Event) -> None:
        """Keep the log, and tell when the server is ready or has ended."""
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self._log.append(line)
                if b"Server is ready" in line:
                    done.set()
        process.wait()
        done.set()

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


async def migrate(
    server: NatsServer, providers: Providers | None = None, discovered: Discovered | None = None
) -> list[Change]:
    """Make the streams, buckets and consumers; without providers, those of the simulated one."""
    nc = await connect(server.url("migrate"), name="migrate")
    try:
        return await apply(nc, NATS, providers or default_providers(), discovered)
    finally:
        await nc.close()
