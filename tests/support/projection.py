"""Two persistence workers' projectors on one database, and those who tell the log: by hand."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import select

from bus import Bus, ObjectStore, open_bus, open_store
from schemas import subjects, writes
from schemas.commands import Command, Reply, encode
from schemas.errors import BusUnavailable
from schemas.queries import raise_failure
from tests.support.nats import NatsServer, migrate
from tests.support.postgres import PostgresServer
from tests.support.runs import Told, new_run, store
from workers.persistence.actions import ACTIONS
from workers.persistence.commander import Commander
from workers.persistence.database import Database, open_engine
from workers.persistence.facts import Fact
from workers.persistence.projector import Projector
from workers.persistence.tables import conversation_items
from workers.persistence.turns import Told as Untold
from workers.persistence.turns import Turns

PRINCIPAL = "user_a"


class Worker:
    """One worker's projector, whose telling can be made to fail: as if it died after its commit."""

    def __init__(self, url: str, bus: Bus, objects: ObjectStore) -> None:
        self.engine = open_engine(url, pool_size=4)
        self.database = Database(self.engine)
        self.commander = Commander(self.database, bus, ACTIONS)
        self.projector = Projector(self.database, _no_floor, turns=Turns(bus, objects, self))
        self.dies = False

    async def tell_all(self, told: Sequence[Untold]) -> None:
        if self.dies:
            raise BusUnavailable("it died")
        await self.commander.tell_all(told)

    async def take(self, facts: Sequence[Fact]) -> None:
        async def nothing() -> None: ...

        assert await self.projector.project(facts, nothing) == []

    async def ask(self, read: Any, question: Any) -> Any:
        """Have a question answered; raises what refuses it."""
        async with self.engine.connect() as connection:
            return await read(connection, question)


@dataclass(frozen=True)
class Place:
    """Two workers on one database, and those who tell the log."""

    one: Worker
    two: Worker
    edge: Bus
    inference: Bus
    cli: Bus
    objects: ObjectStore

    async def tell(self, *told: Told) -> list[Fact]:
        """Put facts into the log; return them as a worker gets them."""
        seqs = await store(self.edge, self.inference, told, others=self.cli)
        return [
            Fact(seq, message.subject, message.data, time.time())
            for seq, message in zip(seqs, told, strict=True)
        ]

    async def converse(self) -> str:
        """Make a conversation."""
        answer = await self.command("conversations.create", writes.CreateConversation())
        return str(answer["id"])

    async def command(
        self, name: str, body: msgspec.Struct, principal: str = PRINCIPAL
    ) -> dict[str, Any]:
        """Carry out a command; raises what refuses it."""
        command = Command(
            id=f"cmd_{new_run()}",
            principal=principal,
            at=time.time(),
            deadline=time.time() + 10,
            body=msgspec.Raw(encode(body)),
        )
        told = await self.one.commander.carry_out(name, command)
        raise_failure(told)
        reply = msgspec.json.decode(told, type=Reply)
        answer: dict[str, Any] = msgspec.json.decode(reply.answer)
        return answer

    async def items(self, conversation: str) -> list[tuple[int, str, str]]:
        """Position, role and text of a conversation's items."""
        table = conversation_items.c
        question = (
            select(table.position, table.role, table.text)
            .where(table.conversation_id == conversation)
            .order_by(table.position)
        )
        async with self.one.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(question)]

    async def told(self, conversation: str) -> int:
        """How many turns the log says were added to a conversation."""
        subject = subjects.state_event("conversation", "turn_added", conversation)
        found = [stored async for stored in self.cli.read_subject(subjects.EVENTS, subject)]
        return sum(conversation.encode() in stored.data for stored in found)


@asynccontextmanager
async def open_place(
    nats: NatsServer, postgres: PostgresServer, folder: Path
) -> AsyncIterator[Place]:
    """Open it, with a database of its own."""
    await migrate(nats)
    objects = open_store(folder)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(postgres.database())
        names = ("persistence", "edge", "inference", "cli")
        persistence, edge, inference, cli = [
            await stack.enter_async_context(open_bus(nats.url(name), name=name)) for name in names
        ]
        one, two = (Worker(url, persistence, objects) for _ in range(2))
        yield Place(one, two, edge, inference, cli, objects)
        await one.database.close()
        await two.database.close()


async def _no_floor() -> int:
    return 0
