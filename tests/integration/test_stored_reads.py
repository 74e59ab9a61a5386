"""Where questions are answered, by which indexes, and what is forgotten."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import psycopg
import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from bus import Bus, open_bus
from cli.measure.seed import seed
from edge.orders import Caller
from edge.stored import Positions, Stored
from schemas import writes
from schemas.api.lists import Paging
from schemas.errors import InvalidRequest, NotFound, Unavailable
from schemas.queries import Ask
from schemas.queries.completions import AskCompletion
from schemas.queries.conversations import AskConversation, AskConversations, AskItems
from schemas.queries.projects import AskProject
from schemas.queries.responses import AskResponse
from schemas.queries.runs import AskRun, AskRuns
from schemas.queries.settings import AskSettings
from tests.support.nats import NatsServer, migrate
from tests.support.persistence import Running, running_worker
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.waiting import until
from workers.persistence.app import Pools
from workers.persistence.database import Database, open_engine
from workers.persistence.pruning import Pruner
from workers.persistence.queries import completions, conversations, projects, responses, runs
from workers.persistence.tables import processed_commands

PRINCIPAL = "user_a"
CREATE = ("conversations", "create")
WAITING = text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    " AND query LIKE :asked"  # others wait for the lock as well
)


@pytest.fixture
async def engine(postgres: PostgresServer) -> AsyncIterator[AsyncEngine]:
    async with postgres.database() as url:
        engine = open_engine(url, pool_size=4)
        yield engine
        await engine.dispose()


class _NoBucket:
    """There is one edge only."""


@asynccontextmanager
async def answering(
    nats: NatsServer, url: str, **settings: Any
) -> AsyncIterator[tuple[Running, Bus]]:
    """A worker that answers questions, and the connection of an edge that asks them."""
    await migrate(nats)
    async with (
        running_worker(nats, url, **settings) as worker,
        open_bus(nats.url("edge"), name="edge") as bus,
    ):
        yield worker, bus


def stored_at(bus: Bus) -> Stored:
    """Stored things as an edge has them."""
    return Stored(bus, Positions(_NoBucket(), lambda: False), patience=5.0)  # type: ignore[arg-type]


def caller(principal: str = PRINCIPAL) -> Caller:
    return Caller(principal=principal, request_id="req_1")


async def create(stored: Stored, title: str, principal: str = PRINCIPAL) -> dict[str, Any]:
    """Make an empty conversation; returns it as it is told."""
    body = writes.CreateConversation(title=title, metadata={}, items=[])
    return dict(msgspec.json.decode(await stored.command(*CREATE, caller(principal), body)))


def answers(worker: Running, source: str) -> float:
    return worker.registry.get_sample_value("jan_answers_total", {"source": source}) or 0


async def waiting(watching: AsyncEngine, asked: str) -> int:
    """How many wait for a lock with a statement like this."""
    async with watching.connect() as connection:  # each transaction sees one state only
        return int(await connection.scalar(WAITING, {"asked": asked}) or 0)


async def test_a_question_that_takes_too_long_is_given_up_by_the_database_too(
    nats: NatsServer, postgres: PostgresServer
) -> None:
    """Nobody takes it for a database that is away, and its server works for nobody."""
    async with postgres.database() as url:
        blocking = open_engine(url, pool_size=1)
        async with answering(nats, url) as (worker, bus), blocking.connect() as connection:
            await connection.execute(text("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE"))
            ask = AskConversation(principal=PRINCIPAL, id="conv_1")
            with pytest.raises(Unavailable, match="too long"):
                await stored_at(bus).ask("conversations", "get", ask)
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            assert await connection.scalar(text(waiting)) == 0
            assert worker.work.presence() == {"database": "ok"}
        await blocking.dispose()


async def test_a_replica_answers_once_it_has_what_was_written(nats: NatsServer) -> None:
    with running_postgres() as primary:
        async with primary.database() as url:
            with running_postgres(of=primary) as replica:
                read_url = replica.url(url.rsplit("/", 1)[1])
                async with answering(nats, url, read_url=read_url) as (worker, bus):
                    stored = stored_at(bus)

                    async def title_of(conversation: str) -> str:
                        ask = AskConversation(principal=PRINCIPAL, id=conversation)
                        found = await stored.ask("conversations", "get", ask)
                        return str(msgspec.json.decode(found)["title"])

                    one = (await create(stored, "one"))["id"]
                    assert await title_of(one) == "one"  # from wherever it is by now

                    async def replica_answers() -> bool:
                        before = answers(worker, "replica")
                        assert await title_of(one) == "one"
                        return answers(worker, "replica") > before

                    await until(replica_answers)

                    replica.freeze()  # behind, and mute
                    two = (await create(stored, "two"))["id"]
                    assert await title_of(two) == "two"
                    replica.thaw()
                    await until(replica_answers)

                    replica.kill()
                    before = answers(worker, "primary")
                    began = time.monotonic()
                    assert await title_of(one) == "one"
                    assert time.monotonic() - began < 5
                    assert answers(worker, "primary") > before
                    assert worker.work.presence() == {"database": "ok"}


async def test_a_replica_that_stands_behind_is_not_asked(
    nats: NatsServer, postgres: PostgresServer
) -> None:
    """A database of its own that nobody writes to is as far behind as one can be."""
    async with (
        postgres.database() as url,
        postgres.database() as empty,
        answering(nats, url, read_url=empty) as (worker, bus),
    ):
        stored = stored_at(bus)
        made = await create(stored, "one")
        ask = AskConversation(principal=PRINCIPAL, id=made["id"])
        assert msgspec.json.decode(await stored.ask("conversations", "get", ask)) == made
        assert (answers(worker, "replica"), answers(worker, "primary")) == (0, 1)


async def test_slow_questions_keep_no_write_waiting(
    nats: NatsServer, postgres: PostgresServer
) -> None:
    async with postgres.database() as url, answering(nats, url, database_pool=10) as (_, bus):
        stored = stored_at(bus)
        made = await create(stored, "one")
        engine, watching = open_engine(url, pool_size=1), open_engine(url, pool_size=1)
        async with engine.connect() as connection:
            # Who reads waits for this lock, who writes does not touch the table.
            await connection.execute(text("LOCK TABLE conversation_branches"))
            ask = AskItems(principal=PRINCIPAL, conversation=made["id"])
            slow = [
                asyncio.create_task(stored.ask("conversations", "items", ask)) for _ in range(8)
            ]

            async def all_connections_wait() -> bool:
                return await waiting(watching, "%conversation_branches%") == Pools.of(10).reads

            await until(all_connections_wait)
            change = writes.UpdateConversation(id=made["id"], title="two")
            async with asyncio.timeout(2):
                await stored.command("conversations", "update", caller(), change)
            assert not any(task.done() for task in slow)
            await connection.rollback()
        await asyncio.gather(*slow, return_exceptions=True)
        await engine.dispose()
        await watching.dispose()


async def test_questions_that_wait_for_the_log_keep_no_others_waiting(
    nats: NatsServer, postgres: PostgresServer
) -> None:
    async with postgres.database() as url, answering(nats, url) as (_, bus):
        stored = stored_at(bus)
        made = await create(stored, "one")
        ask = AskConversation(principal=PRINCIPAL, id=made["id"])
        ahead = msgspec.structs.replace(ask, after=1000)
        waiting = [
            asyncio.create_task(stored.ask("conversations", "get", ahead)) for _ in range(16)
        ]
        await bus.arrived(1)
        async with asyncio.timeout(1):  # they wait for two
            await stored.ask("conversations", "get", ask)
        assert not any(task.done() for task in waiting)
        refused = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(answer) for answer in refused} == {Unavailable}


async def test_questions_that_are_read_together_are_answered_each_on_its_own_terms(
    nats: NatsServer, postgres: PostgresServer
) -> None:
    async with postgres.database() as url, answering(nats, url) as (_, bus):
        stored = stored_at(bus)

        def ask(principal: str, conversation: str, after: int = 0) -> "asyncio.Task[bytes]":
            question = AskConversation(principal=principal, id=conversation, after=after)
            return asyncio.create_task(stored.ask("conversations", "get", question))

        ours, theirs = [(await create(stored, name, name))["id"] for name in ("user_a", "user_b")]
        blocking, watching = open_engine(url, pool_size=1), open_engine(url, pool_size=1)
        async with blocking.connect() as connection:
            await connection.execute(text("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE"))
            waiting_together = partial(waiting, watching, "SELECT asked.%")
            first = ask("user_a", ours)
            await until(waiting_together)
            asked = {
                "ours": ask("user_a", ours),
                "theirs": ask("user_b", theirs),
                "ours again": ask("user_a", ours),
                "foreign": ask("user_b", ours),
                "missing": ask("user_a", "conv_none"),
                "unreadable": ask("user_a", "conv_\0"),
                "ahead": ask("user_a", ours, after=1000),
            }
            await asyncio.sleep(0)  # they are sent
            await stored.ask("settings", "get", AskSettings(principal="user_a"))  # after them
            assert await waiting_together() == 1
            await connection.rollback()
        await blocking.dispose()
        await watching.dispose()
        told = dict(
            zip(asked, await asyncio.gather(*asked.values(), return_exceptions=True), strict=True)
        )
        assert {name: _title_or_error(answer) for name, answer in told.items()} == {
            "ours": "user_a",
            "theirs": "user_b",
            "ours again": "user_a",
            "foreign": NotFound,
            "missing": NotFound,
            "unreadable": InvalidRequest,
            "ahead": Unavailable,
        }
        assert _title_or_error(await first) == "user_a"


def _title_or_error(answer: bytes | BaseException) -> object:
    return msgspec.json.decode(answer)["title"] if isinstance(answer, bytes) else type(answer)


async def test_more_questions_than_anybody_waits_for_are_refused(
    nats: NatsServer, postgres: PostgresServer
) -> None:
    async with postgres.database() as url, answering(nats, url) as (_, bus):
        ahead = AskConversation(principal=PRINCIPAL, id="conv_none", after=1000)
        asked = [stored_at(bus).ask("conversations", "get", ahead) for _ in range(1200)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers} == {Unavailable}
        assert sum("too many" in str(answer) for answer in answers) == 200


async def test_old_commands_are_forgotten_and_untold_ones_told(engine: AsyncEngine) -> None:
    now = datetime.now(UTC)
    told: list[bytes] = []

    async def tell(event: bytes) -> int:
        told.append(event)
        return 1

    def row(number: int, age: timedelta, event: bytes | None = None) -> dict[str, Any]:
        names = {"principal": "p", "name": "n.v", "entity": "e", "digest": b""}
        return {"id": f"cmd_{number}", "at": now - age, "event": event, **names}

    old, new = timedelta(days=3), timedelta(days=1)
    rows = [row(n, old) for n in range(2500)] + [row(n, new) for n in range(2500, 2510)]
    rows.append(row(9999, old, b"told late"))
    async with engine.begin() as connection:
        await connection.execute(insert(processed_commands), rows)
    pruners = [Pruner(Database(engine), tell, kept=172_800) for _ in range(2)]
    counts = await asyncio.gather(*(one.prune() for one in pruners))
    assert sum(counts) == 2500
    assert set(told) == {b"told late"}
    async with engine.connect() as connection:
        left = select(func.count()).select_from(processed_commands)
        assert await connection.scalar(left) == 11


def paging(**given: Any) -> Paging:
    return Paging(**{"limit": 20, **given})


RUNS = (
    "INSERT INTO runs (run_id, status, kind, model, principal, request_id, accepted_at)"
    " SELECT 'run_' || n, CASE n % 9973 WHEN 0 THEN 'failed' ELSE 'completed' END,"
    " CASE n % 9967 WHEN 0 THEN 'embedding' ELSE 'chat' END,"
    " CASE n % 9949 WHEN 0 THEN 'rare' ELSE 'usual' END,"
    " 'user_seed' || n % 20, 'req_' || n, now() FROM generate_series(1, 100000) n"
)
RUN_LISTS: dict[str, AskRuns] = {
    "newest": AskRuns(),
    "usual": AskRuns(status="completed", kind="chat", model="usual"),
    "failed": AskRuns(failed=True),
    "of a rare status": AskRuns(status="cancelled"),
    "of a rare kind": AskRuns(kind="embedding"),
    "of a rare model": AskRuns(model="rare"),
    "of nothing": AskRuns(status="refused", kind="count", model="none"),
}


def _one(read_many: Callable[..., Any]) -> Callable[..., Any]:
    """Reads one as many are read."""

    async def read(connection: AsyncConnection, ask: Ask) -> Any:
        return await read_many(connection, [ask])

    return read


QUESTIONS: dict[str, tuple[Callable[..., Any], Ask]] = {
    "a conversation": (_one(conversations.get_conversations), AskConversation(id="conv_1")),
    "a project": (_one(projects.get_projects), AskProject(id="proj_1")),
    "a completion": (_one(completions.get_completions), AskCompletion(id="chatcmpl_1")),
    "a response": (_one(responses.get_responses), AskResponse(id="resp_1")),
    "a run by its request": (runs.get_run, AskRun(request_id="req_20")),
    "conversations": (conversations.list_conversations, AskConversations(paging=paging())),
    "of a project": (
        conversations.list_conversations,
        AskConversations(paging=paging(), project_id="proj_1"),
    ),
    "search": (
        conversations.list_conversations,
        AskConversations(paging=paging(), search="harbour"),
    ),
    "items": (conversations.list_items, AskItems(conversation="", paging=paging())),
    "items of a fork": (
        conversations.list_items,
        AskItems(conversation="", branch="fork", paging=paging()),
    ),
}


async def test_lists_are_read_by_indexes(postgres: PostgresServer) -> None:
    async with postgres.database() as url:
        await seed(url, principals=20, conversations=3000, items=60_000)
        engine = open_engine(url, pool_size=1)
        async with engine.connect() as connection:
            await connection.execute(text(RUNS))
            await connection.execute(text("ANALYZE runs"))
            fork = "SELECT conversation_id, principal FROM conversation_branches WHERE name='fork'"
            found = (await connection.execute(text(fork + " ORDER BY principal LIMIT 1"))).one()
            for name, (read, ask) in QUESTIONS.items():
                told = {"principal": found.principal}
                if isinstance(ask, AskItems):
                    told["conversation"] = found.conversation_id
                question = msgspec.structs.replace(ask, **told)
                plans = await explained(connection, functools.partial(read, connection, question))
                assert plans
                for plan in plans:
                    assert "Seq Scan" not in plan, f"{name}: {plan}"
        await engine.dispose()


@pytest.mark.parametrize("principal", ["user_seed3", None])
async def test_lists_of_runs_are_read_by_indexes_however_they_are_filtered(
    engine: AsyncEngine, principal: str | None
) -> None:
    async with engine.connect() as connection:
        await connection.execute(text(RUNS))
        await connection.execute(text("ANALYZE runs"))
        for name, ask in RUN_LISTS.items():
            question = msgspec.structs.replace(ask, principal=principal)
            read = functools.partial(runs.list_runs, connection, question)
            [plan] = await explained(connection, read)
            assert "Seq Scan" not in plan, f"{name}: {plan}"
            # Through all runs, newest first, one goes for what nearly all are.
            assert "pk_runs" not in plan or name in ("newest", "usual"), f"{name}: {plan}"


async def explained(connection: AsyncConnection, read: Callable[[], Any]) -> list[str]:
    """The plans of all statements that reading takes, as the server itself tells them."""
    raw = (await connection.get_raw_connection()).driver_connection
    assert isinstance(raw, psycopg.AsyncConnection)
    await raw.execute("LOAD 'auto_explain'")
    await raw.execute("SET auto_explain.log_min_duration = 0")
    await raw.execute("SET client_min_messages = 'log'")
    plans: list[str] = []

    def note(told: psycopg.errors.Diagnostic) -> None:
        plans.append(told.message_primary or "")

    raw.add_notice_handler(note)
    await read()
    await raw.execute("SET client_min_messages = 'notice'")  # the last plan is told before this
    raw.remove_notice_handler(note)
    return plans
