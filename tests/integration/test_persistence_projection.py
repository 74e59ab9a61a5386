"""The projection on a real PostgreSQL: any order, any number of times, whatever is in it."""

import itertools
from collections.abc import Sequence

import msgspec
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.errors import NotFound
from schemas.events import Attempt, encode_event
from schemas.queries.runs import AskRun, AskRunEvents, RunFacts
from tests.support.runs import Told, accepted, finished, new_run, refused, started, whole_run
from workers.persistence import positions
from workers.persistence.database import Database
from workers.persistence.facts import Fact
from workers.persistence.projector import Projector, Unusable
from workers.persistence.queries.runs import get_events, get_run
from workers.persistence.tables import run_events, runs


async def project(engine: AsyncEngine, facts: Sequence[Fact]) -> list[Unusable]:
    async def nothing() -> None: ...

    return await Projector(Database(engine), no_floor).project(facts, nothing)


async def no_floor() -> int:
    return 0


async def no_body(_seq: int) -> bytes | None:
    return None


def numbered(told: Sequence[Told], first: int = 1) -> list[Fact]:
    return [
        Fact(seq, message.subject, message.data, 1000.0)
        for seq, message in enumerate(told, start=first)
    ]


async def read(engine: AsyncEngine, run_id: str) -> RunFacts:
    async with engine.connect() as connection:
        return await get_run(connection, AskRun(run_id=run_id))


def story(run_id: str) -> list[Fact]:
    """A run that was handed over."""
    attempts = [
        Attempt(1, "inference-1", 10, 1000.5, 0, 2),
        Attempt(2, "inference-2", 14, 1001.5, 2, 3),
    ]
    return numbered(
        [
            accepted(run_id),
            started(run_id),
            started(run_id, attempt=2, epoch=14, at=1001.5, resumed_at=2),
            finished(run_id, attempts=attempts),
        ]
    )


async def test_a_run_becomes_a_row_with_everything_that_was_told(engine: AsyncEngine) -> None:
    run_id = new_run()

    assert await project(engine, story(run_id)) == []

    found = await read(engine, run_id)
    assert (found.status, found.principal, found.api_key_id) == ("completed", "user_a", "key_1")
    assert (found.kind, found.model, found.deployment) == ("chat", "m", "local/m")
    assert (found.edge, found.stream, found.request_id) == ("edge-1", True, "req_1")
    assert (found.accepted_at, found.started_at) == (1000.0, 1000.5)
    assert (found.first_frame_at, found.finished_at) == (1001.0, 1002.0)
    assert (found.prompt_tokens, found.completion_tokens, found.total_tokens) == (3, 4, 7)
    assert [(a.worker, a.first, a.count) for a in found.attempts] == [
        ("inference-1", 0, 2),
        ("inference-2", 2, 3),
    ]


async def test_the_order_of_deliveries_changes_nothing(engine: AsyncEngine) -> None:
    seen = set()
    for order in itertools.permutations(range(4)):
        run_id = new_run()
        facts = story(run_id)
        for index in order:
            await project(engine, [facts[index]])
        found = msgspec.structs.replace(await read(engine, run_id), run_id="same")
        seen.add(encode_event(found))
    assert len(seen) == 1, "each order gives the same row"


@pytest.mark.parametrize("backwards", [False, True])
async def test_what_comes_together_and_what_comes_alone_give_the_same(
    engine: AsyncEngine, backwards: bool
) -> None:
    """The fence's time is told twice, by who began and at the end, and need not be the same."""
    seen = set()
    for size in (1, 2, 3):
        run_id = new_run()
        end = finished(run_id, attempts=[Attempt(1, "inference-1", 10, 1000.4, 0, 2)])
        facts = numbered([accepted(run_id), started(run_id), end])
        ordered = facts[::-1] if backwards else facts
        for first in range(0, 3, size):
            await project(engine, ordered[first : first + size])
        found = msgspec.structs.replace(await read(engine, run_id), run_id="same")
        assert found.attempts[0].at == 1000.4
        seen.add(encode_event(found))
    assert len(seen) == 1


async def test_a_refused_run_is_told_so_unless_a_repeat_ran(engine: AsyncEngine) -> None:
    for repeat, status in (([], "refused"), (["started"], "running"), (["finished"], "completed")):
        seen = set()
        told = [accepted, refused, *({"started": started, "finished": finished}[r] for r in repeat)]
        for order in itertools.permutations(range(len(told))):
            run_id = new_run()
            for index in order:
                await project(engine, numbered([told[index](run_id)], first=index + 1))
            found = await read(engine, run_id)
            seen.add((found.status, found.error is None))
        assert seen == {(status, True)}


async def test_a_batch_gives_what_its_facts_give_one_by_one(engine: AsyncEngine) -> None:
    seen = set()
    for cut in range(4):
        run_id = new_run()
        facts = story(run_id)[::-1]
        await project(engine, facts[:cut])
        await project(engine, facts[cut:])
        seen.add(encode_event(msgspec.structs.replace(await read(engine, run_id), run_id="same")))
    assert len(seen) == 1


async def test_deliveries_beyond_the_first_change_nothing(engine: AsyncEngine) -> None:
    run_id = new_run()
    await project(engine, story(run_id))
    before = await read(engine, run_id)

    for fact in story(run_id):
        await project(engine, [fact, fact])

    assert await read(engine, run_id) == before
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(run_events)) == 4
        assert await positions.reached(connection) == 4


async def test_a_run_is_told_as_far_as_it_has_come(engine: AsyncEngine) -> None:
    run_id = new_run()
    facts = story(run_id)
    for fact, status in zip(facts, ("accepted", "running", "running", "completed"), strict=True):
        await project(engine, [fact])
        assert (await read(engine, run_id)).status == status


async def test_the_index_knows_where_each_fact_lies(engine: AsyncEngine) -> None:
    run_id = new_run()
    await project(engine, story(run_id))
    async with engine.connect() as connection:
        found = await get_events(connection, AskRunEvents(run_id=run_id), no_body)
    assert [(event.seq, event.verb) for event in found.events] == [
        (1, "accepted"),
        (2, "started"),
        (3, "started"),
        (4, "finished"),
    ]


async def test_facts_are_told_with_their_bodies_as_far_as_they_are_complete(
    engine: AsyncEngine,
) -> None:
    run_id = new_run()
    facts = story(run_id)
    bodies: dict[int, bytes | None] = {fact.seq: fact.data for fact in facts}
    bodies[2] = None  # erased

    async def read_fact(seq: int) -> bytes | None:
        return bodies[seq]

    async def told(skip: int = 0) -> list[tuple[int, bytes | None]]:
        ask = AskRunEvents(run_id=run_id, bodies=True, skip=skip)
        async with engine.connect() as connection:
            found = await get_events(connection, ask, read_fact)
        return [(event.seq, bytes(event.data) if event.data else None) for event in found.events]

    await project(engine, [facts[0], facts[1], facts[3]])
    assert await told() == [(1, facts[0].data), (2, None)], "the third is still to come"
    await project(engine, [facts[2]])
    assert await told() == list(bodies.items())
    assert await told(skip=3) == [(4, facts[3].data)]
    assert await told(skip=4) == []


async def test_bodies_beyond_what_an_answer_holds_are_asked_for_again(engine: AsyncEngine) -> None:
    run_id = new_run()
    facts = story(run_id)
    await project(engine, facts)

    async def read_fact(_seq: int) -> bytes | None:
        return b'"%b"' % (b"x" * (5 << 20))

    async with engine.connect() as connection:
        for skip in range(4):
            ask = AskRunEvents(run_id=run_id, bodies=True, skip=skip)
            found = await get_events(connection, ask, read_fact)
            assert [event.seq for event in found.events] == [skip + 1]
            assert found.has_more == (skip < 3)


async def test_a_fact_of_a_newer_release_is_indexed(engine: AsyncEngine) -> None:
    run_id = new_run()
    newer = Fact(9, "events.run.paused.1", b'{"run_id":"%b","v":7}' % run_id.encode(), 1001.0)

    assert await project(engine, [*story(run_id), newer]) == []

    async with engine.connect() as connection:
        found = await get_events(connection, AskRunEvents(run_id=run_id), no_body)
    assert (found.events[-1].verb, found.events[-1].at) == ("paused", 1001.0)


async def test_nul_surrogates_and_long_names_are_stored(engine: AsyncEngine) -> None:
    run_id = new_run()
    odd = accepted(run_id, model="a\0b", principal="p\0", request_id="x" * 100_000)
    error = b'{"error":{"message":"\\u0000 \\ud83d\\ude00","type":"t"}}'

    assert await project(engine, numbered([odd, finished(run_id, error=error)])) == []

    found = await read(engine, run_id)
    assert found.model == "a\ufffdb"
    assert found.error is not None
    assert bytes(found.error) == error, "JSON is kept byte by byte"


@pytest.mark.parametrize(
    "usage",
    [
        b"null",
        b"[]",
        b'"many"',
        b'{"prompt_tokens":"3","total_tokens":1.5}',
        b'{"prompt_tokens":-1,"completion_tokens":99999999999999999999999,"total_tokens":true}',
    ],
)
async def test_odd_usage_is_no_reason_to_stop(engine: AsyncEngine, usage: bytes) -> None:
    run_id = new_run()
    assert await project(engine, numbered([finished(run_id, usage=usage)])) == []
    found = await read(engine, run_id)
    counts = (found.prompt_tokens, found.completion_tokens, found.total_tokens)
    assert counts == (None, None, None)


async def test_what_cant_be_read_is_singled_out(engine: AsyncEngine) -> None:
    good = new_run()
    garbage = [
        Told("events.run.finished.1", b"\xff\xfe"),
        Told("events.run.finished.1", b"{}"),
        Told("events.run.accepted.1", b'{"at":1,"command":[]}'),
    ]

    unusable = await project(engine, numbered([garbage[0], *whole_run(good), *garbage[1:]]))

    assert [fact.seq for fact, _ in unusable] == [1, 5, 6]
    assert (await read(engine, good)).status == "completed"


async def test_what_the_database_refuses_is_singled_out(engine: AsyncEngine) -> None:
    good = [new_run() for _ in range(5)]
    told = [message for run_id in good for message in whole_run(run_id)]
    told.insert(7, finished(new_run(), at=1e300))  # beyond every calendar
    told.insert(3, Told("events.run.accepted.1", b"garbage"))

    unusable = await project(engine, numbered(told))

    assert sorted(fact.seq for fact, _ in unusable) == [4, 9]
    assert {(await read(engine, run_id)).status for run_id in good} == {"completed"}


async def test_a_query_sees_only_its_principals_runs(engine: AsyncEngine) -> None:
    run_id = new_run()
    await project(engine, numbered(whole_run(run_id, principal="user_a", request_id="req_9")))
    async with engine.connect() as connection:
        mine = await get_run(connection, AskRun(request_id="req_9", principal="user_a"))
        assert mine.run_id == run_id
        for ask in (
            AskRun(run_id=run_id, principal="user_b"),
            AskRun(request_id="req_9", principal="user_b"),
            AskRun(run_id=run_id, principal=""),
            AskRun(run_id="run_\0"),
        ):
            with pytest.raises(NotFound):
                await get_run(connection, ask)
            events = AskRunEvents(**msgspec.structs.asdict(ask))
            with pytest.raises(NotFound):
                await get_events(connection, events, no_body)


async def test_runs_are_found_by_indexes(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for condition in ("run_id = 'x'", "request_id = 'x'", "principal = 'x'"):
            plan = await connection.exec_driver_sql(
                f"EXPLAIN SELECT * FROM {runs.name} WHERE {condition}"
            )
            assert "Index" in "\n".join(row[0] for row in plan)
