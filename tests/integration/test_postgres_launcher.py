"""The embedded PostgreSQL under the supervisor: first start, crash, restart, root and others."""

import asyncio
import io
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from cli.exits import BadSetup
from cli.logs import Logs
from cli.postgres import Cluster, Postgres, choose_runner, find_binaries
from cli.state import DATABASE_NAME, DATABASE_USER, Data, Record, data_at, prepare
from cli.supervisor import Supervisor

PASSWORD = "f00"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a choice of user")


@pytest.fixture
def data(tmp_path: Path) -> Data:
    found = data_at(tmp_path / "data with a space")
    prepare(found)
    return found


def made(data: Data) -> Cluster:
    """A cluster that is ready to start."""
    cluster = Cluster(data)
    if not cluster.exists:
        cluster.initialise(PASSWORD)
    cluster.check()
    cluster.adopt()
    return cluster


class Console(io.StringIO):
    """What the supervisor says, to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: asyncio.Queue[str] = asyncio.Queue()

    def write(self, text: str) -> int:
        """Take a line."""
        self._lines.put_nowait(text)
        return len(text)

    async def until(self, words: str) -> None:
        """Return when a line with these words has come since the last call."""
        async with asyncio.timeout(20):
            while words not in await self._lines.get():
                pass


@asynccontextmanager
async def supervised(data: Data, port: int = 0) -> AsyncIterator[tuple[Supervisor, Postgres]]:
    """PostgreSQL, kept running by a supervisor."""
    async with watched(data, port) as (supervisor, postgres, _):
        yield supervisor, postgres


@asynccontextmanager
async def watched(data: Data, port: int = 0) -> AsyncIterator[tuple[Supervisor, Postgres, Console]]:
    """The same, with what the supervisor says."""
    console = Console()
    logs = Logs(data.logs, console)
    postgres = Postgres(made(data), port)
    async with Supervisor(data, logs, Record()) as supervisor:
        await supervisor.start([postgres])
        await console.until("is ready")
        yield supervisor, postgres, console
    logs.close()


async def query(port: int, statement: str) -> object:
    """Run a statement, and give its first value."""
    connection = await psycopg.AsyncConnection.connect(
        host="127.0.0.1", port=port, user=DATABASE_USER, password=PASSWORD, dbname=DATABASE_NAME
    )
    async with connection:
        cursor = await connection.execute(statement.encode())
        row = await cursor.fetchone() if cursor.description else None
    return row[0] if row else None


async def test_it_keeps_its_data_its_port_and_its_password(data: Data) -> None:
    async with supervised(data) as (_, postgres):
        port = postgres.port
        await query(port, "CREATE TABLE kept AS SELECT 42 AS answer")
    async with supervised(data, port) as (_, postgres):
        assert postgres.port == port
        assert await query(port, "SELECT answer FROM kept") == 42
        assert await query(port, "SHOW server_encoding") == "UTF8"
        await query(port, "CREATE EXTENSION vector")


async def test_nobody_gets_in_without_the_password(data: Data) -> None:
    async with supervised(data) as (_, postgres):
        with pytest.raises(psycopg.OperationalError, match="password"):
            await psycopg.AsyncConnection.connect(
                host="127.0.0.1", port=postgres.port, user=DATABASE_USER, password="wrong"
            )


async def test_its_title_names_it_and_its_data(data: Data) -> None:
    async with supervised(data) as (supervisor, _):
        [process] = supervisor.record.processes
        assert psutil.Process(process.pid).cmdline()[0] == "jan: postgres"
        assert data.owns(process.pid)


async def test_it_listens_here_only(data: Data) -> None:
    async with supervised(data) as (supervisor, _):
        [process] = supervisor.record.processes
        connections = psutil.Process(process.pid).net_connections("inet")
        assert {found.laddr.ip for found in connections} == {"127.0.0.1"}


async def test_killed_it_comes_back_on_the_same_port_with_what_was_committed(data: Data) -> None:
    async with watched(data) as (supervisor, postgres, console):
        await query(postgres.port, "CREATE TABLE kept AS SELECT 7 AS answer")
        [process] = supervisor.record.processes
        first = process.pid
        os.kill(first, signal.SIGKILL)
        await console.until("is ready")
        assert process.pid != first
        assert process.restarts >= 1
        assert await query(postgres.port, "SELECT answer FROM kept") == 7


async def test_a_port_that_somebody_else_has_is_not_waited_for(data: Data) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        async with supervised(data, taken) as (_, postgres):
            assert postgres.port != taken
            assert await query(postgres.port, "SELECT 1") == 1


async def test_stopped_it_leaves_no_process(data: Data) -> None:
    async with supervised(data) as (supervisor, _):
        [process] = supervisor.record.processes
        family = [psutil.Process(process.pid)]
        family += family[0].children(recursive=True)
    assert not any(member.is_running() for member in family)


def test_files_of_another_version_are_refused(data: Data) -> None:
    cluster = made(data)
    (data.postgres / "PG_VERSION").write_text("9\n")
    with pytest.raises(BadSetup, match="was made by PostgreSQL 9, and this is 18"):
        cluster.check()


def test_half_made_files_do_not_count(data: Data) -> None:
    (data.path / "postgres.new").mkdir()
    (data.path / "postgres.new" / "PG_VERSION").write_text("18\n")
    assert not Cluster(data).exists
    made(data)
    assert not (data.path / "postgres.new").exists()


async def test_a_pid_file_that_a_reboot_left_is_no_obstacle(data: Data) -> None:
    made(data)
    (data.postgres / "postmaster.pid").write_text(f"{os.getppid()}\n{data.postgres}\n")
    async with supervised(data) as (_, postgres):
        assert await query(postgres.port, "SELECT 1") == 1


@as_root
async def test_root_runs_it_as_another_user_where_that_user_can_walk(
    data: Data, tmp_path: Path
) -> None:
    walk = [path for path in (data.path, *data.path.parents) if path.stat().st_uid == os.geteuid()]
    for folder in walk:
        if folder.is_relative_to(tmp_path.parents[1]):
            folder.chmod(0o755)
    runner = choose_runner(find_binaries(), data)
    if runner.namespace:
        pytest.skip("the programs are where only root can go")
    async with supervised(data) as (supervisor, postgres):
        [process] = supervisor.record.processes
        assert psutil.Process(process.pid).uids().real == runner.uid != 0
        assert await query(postgres.port, "SELECT 1") == 1


@as_root
async def test_root_runs_it_in_a_namespace_where_only_root_can_walk(data: Data) -> None:
    data.path.chmod(0o700)
    assert choose_runner(find_binaries(), data).namespace
    async with supervised(data) as (_, postgres):
        assert await query(postgres.port, "SELECT 1") == 1
    data.path.chmod(0o711)  # from now on another user may be chosen, who takes the files over
    async with supervised(data) as (_, postgres):
        assert await query(postgres.port, "SELECT 1") == 1
