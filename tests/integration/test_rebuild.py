"""Tables made anew from the log: equal to what was there, whatever happened to that."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from bus import Bus, open_bus
from edge.orders import Caller
from edge.stored import Stored
from schemas import writes
from schemas.queries.conversations import AskConversations
from schemas.queries.responses import AskResponse
from tests.support.nats import NatsServer, migrate
from tests.support.persistence import running_worker
from tests.support.postgres import PostgresServer
from tests.support.runs import new_run, started, store, tellers, whole_run
from tests.support.stored import of_edge, stored_item
from tests.support.stored_responses import call_of, id_of, response_of, step_of
from workers.persistence.database import open_engine
from workers.persistence.rebuild import PROJECTIONS, Incomplete, Rebuild
from workers.persistence.tables import conversation_items, conversations, runs

CALLER = Caller("user_a", "req_1")


@dataclass(frozen=True)
class Place:
    """A server with something stored, and ways to it."""

    url: str
    engine: AsyncEngine
    cli: Bus
    stored: Stored

    async def rebuild(self, *names: str, only_check: bool = False) -> dict[str, bool]:
        chosen = names or tuple(PROJECTIONS)
        compared = await Rebuild(self.url, self.cli, chosen, only_check=only_check).run()
        return {table.table: table.equal for table in compared}

    async def count(self, table: object) -> int:
        async with self.engine.connect() as connection:
            return int(await connection.scalar(select(func.count()).select_from(table)) or 0)  # type: ignore[arg-type]

    async def execute(self, statement: str) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(text(statement))


@pytest.fixture
async def place(nats: NatsServer, postgres: PostgresServer) -> AsyncIterator[Place]:
    await migrate(nats)
    async with (
        postgres.database() as url,
        running_worker(nats, url),
        tellers(nats) as (edge, inference),
        open_bus(nats.url("cli"), name="cli") as cli,
    ):
        stored = of_edge(edge)
        engine = open_engine(url, pool_size=1)
        await fill(stored, edge, inference, cli)
        yield Place(url, engine, cli, stored)
        await engine.dispose()


async def fill(stored: Stored, edge: Bus, inference: Bus, others: Bus) -> None:
    """Two conversations, one of them deleted, an item less, responses, and some runs."""
    kept, gone = [
        msgspec.json.decode(
            await stored.command(
                "conversations", "create", CALLER, writes.CreateConversation(title=title)
            )
        )["id"]
        for title in ("kept", "gone")
    ]
    for conversation in (kept, gone):
        body = writes.AddItems(conversation, [stored_item("one"), stored_item("two")])
        added = msgspec.json.decode(
            await stored.command("conversations", "add_items", CALLER, body)
        )
    await stored.command(
        "conversations", "delete_item", CALLER, writes.DeleteItem(gone, added["last_id"])
    )
    await stored.command("conversations", "delete", CALLER, writes.DeleteConversation(gone))
    await stored.command(
        "conversations", "update", CALLER, writes.UpdateConversation(kept, title="kept, renamed")
    )
    await fill_responses(stored, edge, inference, others)
    for _ in range(4):
        sequences = await store(edge, inference, whole_run(new_run()))
    await stored.positions.advance(CALLER.principal, sequences[-1])
    await stored.ask("conversations", "list", AskConversations(principal=CALLER.principal))


async def fill_responses(stored: Stored, edge: Bus, inference: Bus, others: Bus) -> None:
    """A response with a step and a call, and another one that was deleted."""
    kept, gone = new_run(), new_run()
    begin, end = response_of(kept, "kept")
    told = [begin, *step_of(kept, 1), *call_of(kept, 1), end, *response_of(gone, "gone")]
    sequences = await store(edge, inference, told, others=others)
    await stored.positions.advance(CALLER.principal, sequences[-1])
    question = AskResponse(principal=CALLER.principal, id=id_of(gone))
    await stored.ask("responses", "get", question)
    await stored.command("responses", "delete", CALLER, writes.DeleteResponse(id_of(gone)))


async def test_what_is_there_is_what_the_log_says(place: Place) -> None:
    compared = await place.rebuild(only_check=True)

    assert all(compared.values()), compared
    assert await place.count(runs) == 7


async def test_lost_rows_come_back_and_wrong_ones_are_put_right(place: Place) -> None:
    await place.execute("DELETE FROM runs")
    await place.execute("TRUNCATE conversation_items, conversation_branches")
    await place.execute("UPDATE conversations SET title = 'wrong', version = 99")
    await place.execute("TRUNCATE response_items, responses")

    compared = await place.rebuild()

    wrong = {"runs", "conversation_items", "conversation_branches", "conversations"}
    wrong |= {"responses", "response_items"}
    assert {table for table, equal in compared.items() if not equal} == wrong
    assert all((await place.rebuild(only_check=True)).values())
    assert await place.count(runs) == 7
    assert await place.count(conversation_items) == 2
    listed = msgspec.json.decode(
        await place.stored.ask("conversations", "list", AskConversations(principal="user_a"))
    )
    assert [one["title"] for one in listed["data"]] == ["kept, renamed"]


async def test_what_the_database_refuses_is_left_out_as_it_was_at_first(
    place: Place, nats: NatsServer
) -> None:
    async with open_bus(nats.url("inference"), name="inference") as inference:
        refused = started(new_run(), at=1e300)
        last = await inference.store(refused.subject, refused.data, msg_id="refused")
    await place.stored.positions.advance(CALLER.principal, last.seq)
    await place.stored.ask("conversations", "list", AskConversations(principal=CALLER.principal))

    assert all((await place.rebuild(only_check=True)).values())


async def test_a_check_changes_nothing(place: Place) -> None:
    await place.execute("DELETE FROM runs")

    compared = await place.rebuild("runs", only_check=True)

    assert compared == {"runs": False, "run_attempts": True, "run_events": True}
    assert await place.count(runs) == 0


async def test_one_projection_leaves_the_others_alone(place: Place) -> None:
    await place.execute("DELETE FROM runs")
    await place.execute("DELETE FROM conversation_items")

    assert (await place.rebuild("runs"))["runs"] is False

    assert await place.count(runs) == 7
    assert await place.count(conversation_items) == 0
    assert await place.count(conversations) == 2


async def test_a_log_that_lacks_its_beginning_is_not_enough(place: Place, nats: NatsServer) -> None:
    async with open_bus(nats.url("migrate"), name="migrate") as migrating:
        info = await migrating.js.stream_info("EVENTS")
        info.config.max_msgs = 3
        await migrating.js.update_stream(info.config)

    with pytest.raises(Incomplete, match="begins with its message"):
        await place.rebuild()
    assert await place.count(runs) == 7
