"""What the tests on one real service share.

A file whose tests need something else of a name, such as a server with settings of its own, says
so with a fixture of the same name.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from bus import Bus, open_bus
from tests.support import bare_edge, inference, responses
from tests.support.log import Told
from tests.support.mcp_edge import Mcp, serving_mcp
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.stored import Stored, running_stored
from tests.support.tools import ToolDesk, open_tool_desk
from workers.persistence.database import open_engine


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests; each takes a database of its own from it."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own: it may be killed, and holds nothing but this test's rows."""
    with running_postgres() as server:
        yield server


@pytest.fixture
async def engine(postgres: PostgresServer) -> AsyncIterator[AsyncEngine]:
    """A database of the test's own, with its tables."""
    async with postgres.database() as url:
        engine = open_engine(url, pool_size=2)
        yield engine
        await engine.dispose()


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A NATS server of the test's own; nothing has been migrated to it."""
    with running_nats(tmp_path / "store") as server:
        yield server


@pytest.fixture
def jan_finds_nats(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands of `jan` that run in the test's own process find that server."""
    monkeypatch.setenv("JAN_NATS_URL", nats.url("cli"))


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """What `jan log` has printed."""
    return Told(capsys)


@pytest.fixture(scope="module")
def shared_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One NATS server for the tests of a file, which tell their own messages from the others'."""
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
async def server(nats: NatsServer) -> NatsServer:
    """A NATS server of the test's own that has what workers need, and the simulated model."""
    await migrate(nats, inference.simulated())
    return nats


@pytest.fixture
async def desk(server: NatsServer) -> AsyncIterator[inference.Desk]:
    """Who gives inference its jobs, and reads the runs."""
    async with inference.open_desk(server) as opened:
        yield opened


@pytest.fixture
async def caller(server: NatsServer) -> AsyncIterator[responses.Client]:
    """Who asks the loop for responses, and reads them."""
    async with responses.open_client(server) as opened:
        yield opened


@pytest.fixture
async def worker(nats: NatsServer) -> AsyncIterator[Bus]:
    """The connection of a worker of inference that a test plays."""
    await migrate(nats)
    async with open_bus(nats.url("inference"), name="worker") as bus:
        yield bus


@pytest.fixture
async def edge(nats: NatsServer, worker: Bus, tmp_path: Path) -> AsyncIterator[bare_edge.Edge]:
    """An edge that gives it runs."""
    async with bare_edge.running_edge(nats, tmp_path / "objects") as edge:
        yield edge


@pytest.fixture
async def other(nats: NatsServer, worker: Bus, tmp_path: Path) -> AsyncIterator[bare_edge.Edge]:
    """Another edge, beside `edge`."""
    async with bare_edge.running_edge(nats, tmp_path / "objects", "edge-2") as edge:
        yield edge


@pytest.fixture
async def tool_desk(shared_nats: NatsServer) -> AsyncIterator[ToolDesk]:
    """Who calls tools, and reads what comes of it."""
    await migrate(shared_nats)
    async with open_tool_desk(shared_nats) as opened:
        yield opened


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Mcp]:
    """A server whose tools are called at /mcp."""
    async with serving_mcp(tmp_path) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stored(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stored]:
    """One server that stores things, over HTTP, for the tests of a file."""
    async with running_stored(postgres, tmp_path_factory.mktemp("stored")) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def client(stored: Stored) -> httpx.AsyncClient:
    """The client of a new user of it."""
    return await stored.client()
