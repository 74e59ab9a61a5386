"""Legal deletion: of what was deleted, nothing is left in any file; what was used stays counted."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select, text

from bus import Bus, open_bus
from edge.orders import Caller
from edge.stored import Stored
from schemas import subjects, writes
from schemas.commands import RunInference, Turn, encode
from schemas.events import encode_run_accepted
from schemas.queries.conversations import AskConversations
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.persistence import running_worker
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.runs import finished, new_run
from tests.support.stored import of_edge, stored_item
from workers.persistence.database import open_engine
from workers.persistence.rebuild import PROJECTIONS, Rebuild
from workers.persistence.tables import erasures, runs

SECRET = "xyzzy-plugh-plover"
CALLER = Caller("user_a", "req_1")
OTHER = Caller("user_b", "req_2")


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path / "store") as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server whose files hold nothing but this test's rows."""
    with running_postgres() as server:
        yield server


@dataclass(frozen=True)
class Place:
    """A server, and ways to it."""

    nats: NatsServer
    postgres: PostgresServer
    url: str
    edge: Bus
    inference: Bus
    cli: Bus
    stored: Stored

    async def say(self, caller: Caller, words: str) -> str:
        """Make a conversation in which something was said, and a run's answer; return its id."""
        made = msgspec.json.decode(
            await self.stored.command(
                "conversations",
                "create",
                caller,
                writes.CreateConversation(title=words, items=[stored_item(words)]),
            )
        )
        conversation = str(made["id"])
        added = writes.AddItems(conversation, [stored_item(words)])
        await self.stored.command("conversations", "add_items", caller, added)
        await self._run(caller, conversation, words)
        return conversation

    async def _run(self, caller: Caller, conversation: str, words: str) -> None:
        run_id = new_run()
        job = RunInference(
            run_id=run_id,
            kind="chat",
            edge="edge-1",
            principal=caller.principal,
            model="m",
            targets=[],
            created=1000,
            deadline=2000.0,
            request_id="req",
            request=msgspec.Raw(msgspec.json.encode({"messages": [words]})),
            turn=Turn(conversation, "MAIN"),
        )
        told = encode_run_accepted(encode(job), 1000.0)
        await self.edge.store(subjects.run_event("accepted", run_id), told, msg_id=run_id)
        end = finished(run_id, result=msgspec.json.encode({"said": words}))
        ack = await self.inference.store(end.subject, end.data, msg_id=f"{run_id}-end")
        await self.stored.positions.advance(caller.principal, ack.seq)

    async def titles(self, caller: Caller) -> list[str]:
        answer = await self.stored.ask(
            "conversations", "list", AskConversations(principal=caller.principal)
        )
        return [one["title"] for one in msgspec.json.decode(answer)["data"]]

    async def read(self, statement: object) -> list[tuple[object, ...]]:
        engine = open_engine(self.url, pool_size=1)
        try:
            async with engine.connect() as connection:
                return [tuple(row) for row in await connection.execute(statement)]  # type: ignore[call-overload]
        finally:
            await engine.dispose()

    async def until_erased(self, count: int) -> None:
        done = select(erasures.c.entity).where(erasures.c.done_at.is_not(None))
        async with asyncio.timeout(30):
            while len(await self.read(done)) < count:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.1)
            while b"xyzzy" in self.queues():  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    def queues(self) -> bytes:
        """What the files of the queues hold, which are dropped when they are empty."""
        return b"".join(
            file.read_bytes()
            for stream in ("COMMANDS", "JOBS")
            for file in self.nats.folder.rglob(f"{stream}/msgs/*.blk")
        )

    async def clean_up(self) -> None:
        """What PostgreSQL does in time: dead rows go, the log of writes is used again."""
        engine = open_engine(self.url, pool_size=1)
        try:
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(text("VACUUM FULL"))
                # Its old files would be kept, to be written over.
                await connection.execute(text("ALTER SYSTEM SET wal_recycle = off"))
                await connection.execute(text("SELECT pg_reload_conf()"))
                for _ in range(3):
                    await connection.execute(text("SELECT pg_switch_wal()"))
                    await connection.execute(text("CHECKPOINT"))
        finally:
            await engine.dispose()


def files_with(word: str, *folders: Path) -> list[str]:
    return [
        str(file)
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file() and word.encode() in file.read_bytes()
    ]


@pytest.fixture
async def place(nats: NatsServer, own_postgres: PostgresServer) -> AsyncIterator[Place]:
    await migrate(nats)
    async with (
        own_postgres.database() as url,
        running_worker(nats, url),
        open_bus(nats.url("edge"), name="edge") as edge,
        open_bus(nats.url("inference"), name="inference") as inference,
        open_bus(nats.url("cli"), name="cli") as cli,
    ):
        stored = of_edge(edge)
        yield Place(nats, own_postgres, url, edge, inference, cli, stored)


async def test_of_a_deleted_conversation_nothing_is_left_in_any_file(place: Place) -> None:
    await place.say(OTHER, "something else")
    conversation = await place.say(CALLER, SECRET)
    assert await place.titles(CALLER) == [SECRET]
    assert files_with(SECRET, place.nats.folder)

    gone = writes.DeleteConversation(conversation)
    await place.stored.command("conversations", "delete", CALLER, gone)
    await place.until_erased(1)
    await place.clean_up()

    assert files_with(SECRET, place.nats.folder, place.postgres.folder) == []
    assert await place.titles(CALLER) == []
    assert await place.titles(OTHER) == ["something else"]
    counted = await place.read(select(runs.c.total_tokens).where(runs.c.principal == "user_a"))
    assert counted == [(7,)], "usage stays counted"


async def test_of_a_deleted_user_nothing_is_left_either(place: Place) -> None:
    await place.say(OTHER, "something else")
    for _ in range(2):
        await place.say(CALLER, SECRET)
    assert len(await place.titles(CALLER)) == 2

    await place.stored.command("users", "delete", CALLER, writes.DeleteUser())
    await place.until_erased(1)
    await place.clean_up()

    assert files_with(SECRET, place.nats.folder, place.postgres.folder) == []
    assert await place.titles(CALLER) == []
    assert await place.titles(OTHER) == ["something else"]
    later = await place.say(CALLER, "back again")
    assert later
    assert await place.titles(CALLER) == ["back again"], "who comes back can begin anew"


async def test_after_an_erasure_the_log_still_makes_the_same_tables(place: Place) -> None:
    conversation = await place.say(CALLER, SECRET)
    await place.say(CALLER, "kept")
    assert len(await place.titles(CALLER)) == 2
    gone = writes.DeleteConversation(conversation)
    await place.stored.command("conversations", "delete", CALLER, gone)
    await place.until_erased(1)

    compared = await Rebuild(place.url, place.cli, tuple(PROJECTIONS), only_check=True).run()

    assert [table for table in compared if not table.equal] == []
