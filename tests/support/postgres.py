"""A real PostgreSQL for tests, started by the server's own launcher; a fresh database per test."""

import contextlib
import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from cli.exits import MissingBinary
from cli.postgres import Cluster, Postgres, _run, find_binaries
from cli.process import _in_child
from cli.state import DATABASE_USER, data_at, prepare
from tests.support.ports import free_ports
from workers.persistence.migrate import upgrade

_TEMPLATE = "template_of_tests"
_PASSWORD = "tests"
# Safe as long as only PostgreSQL is killed, not the machine.
_FAST = ("-c", "fsync=off", "-c", "full_page_writes=off")


class PostgresServer:
    """One server over one cluster: killed, frozen and started again, it keeps its port."""

    def __init__(
        self, folder: Path, *, fast: bool = True, of: "PostgresServer | None" = None
    ) -> None:
        self._data = data_at(folder)
        self._extra = _FAST if fast else ()
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        prepare(self._data)
        cluster = Cluster(self._data)
        if of is None:
            cluster.initialise(_PASSWORD)
        else:
            _copy(of, cluster)
        self._postgres = Postgres(cluster, free_ports(1)[0])

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._data.path

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return self._postgres.port

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def url(self, database: str = "jan") -> str:
        """The address of one of its databases, as settings take it."""
        return f"postgresql+psycopg://{DATABASE_USER}:{_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and return when it answers."""
        assert self._process is None, "the server is running"
        command = self._postgres.command(-1)
        self._process = subprocess.Popen(
            [*command.argv, *self._extra],
            executable=command.executable,
            env=dict(command.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self._data.path / "log").open("ab"),
            preexec_fn=_in_child(os.getpid(), command),  # noqa: PLW1509 - system calls only
            start_new_session=True,
        )
        self._wait()

    def stop(self) -> None:
        """Stop it in order; open connections are closed."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill it and all its backends, as a crash would."""
        if self._process is not None:
            self._signal_all(signal.SIGKILL)
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it and its backends do nothing while their connections stay open."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal_all(signal.SIGCONT)

    @asynccontextmanager
    async def database(self, *, migrated: bool = True) -> AsyncIterator[str]:
        """Make a database, with this release's tables or empty, and drop it after use."""
        name = f"test_{next(self._names)}"
        if migrated:
            await self._ensure_template()
        source = _TEMPLATE if migrated else "template0"
        await self._administer(f'CREATE DATABASE "{name}" TEMPLATE "{source}"')
        try:
            yield self.url(name)
        finally:
            if self._process is not None:
                await self._administer(f'DROP DATABASE "{name}" WITH (FORCE)')

    async def _ensure_template(self) -> None:
        found = await self._administer(f"SELECT 1 FROM pg_database WHERE datname = '{_TEMPLATE}'")
        if not found:
            await self._administer(f'CREATE DATABASE "{_TEMPLATE}" TEMPLATE template0')
            await upgrade(self.url(_TEMPLATE))

    async def _administer(self, statement: str) -> bool:
        """Run a statement outside of the tests' databases; tell whether it found a row."""
        address = self.url("postgres").replace("+psycopg", "")
        async with await psycopg.AsyncConnection.connect(address, autocommit=True) as connection:
            cursor = await connection.execute(statement.encode())
            return cursor.description is not None and await cursor.fetchone() is not None

    def _signal_all(self, number: signal.Signals) -> None:
        for process in _family(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + 30
        address = self.url("postgres").replace("+psycopg", "")
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(address, connect_timeout=2).close()
                return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(
            "PostgreSQL does not start:\n" + (self._data.path / "log").read_text(errors="replace")
        )

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        (self._data.postgres / "postmaster.pid").unlink(missing_ok=True)


def _copy(source: PostgresServer, cluster: Cluster) -> None:
    """Make a streaming replica's files."""
    cluster.folder.mkdir(mode=0o700)
    cluster.adopt()
    command = [str(cluster.binaries / "pg_basebackup"), "--write-recovery-conf", "--no-sync"]
    command += ["--checkpoint=fast", "--wal-method=stream", "--pgdata", str(cluster.folder)]
    address = source.url("postgres").replace("+psycopg", "")
    done = _run(cluster.runner, [*command, "--dbname", address])
    assert done.returncode == 0, done.stderr


def _family(pid: int) -> list[int]:
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [pid, *(child.pid for child in children)]


@contextmanager
def running_postgres(
    *, fast: bool = True, of: PostgresServer | None = None
) -> Iterator[PostgresServer]:
    """Run a server over a new cluster, or over a streaming replica of another one's.

    Without the programs skip, or fail in CI.
    """
    try:
        find_binaries()
    except MissingBinary as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    # Not pytest's tmp_path: nobody but its owner may walk there, and PostgreSQL is not root.
    with tempfile.TemporaryDirectory(prefix="jan-postgres-") as folder:
        os.chmod(folder, 0o711)
        server = PostgresServer(Path(folder) / "data", fast=fast, of=of)
        server.start()
        try:
            yield server
        finally:
            server.kill()
