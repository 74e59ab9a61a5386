"""Lists of runs on a real PostgreSQL: filtered, paged, each principal's own."""

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas import ids
from schemas.errors import InvalidRequest
from schemas.queries.runs import AskRuns, RunList
from tests.support.runs import Told, accepted, finished, new_run, started
from workers.persistence.database import Database
from workers.persistence.facts import Fact
from workers.persistence.projector import Projector
from workers.persistence.queries.runs import list_runs

BEGAN = 1_700_000_000.0
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ERROR = b'{"error":{"message":"no","code":"engine_down"}}'


async def project(engine: AsyncEngine, told: list[Told]) -> None:
    async def nothing() -> None: ...

    async def no_floor() -> int:
        return 0

    facts = [Fact(seq, one.subject, one.data, BEGAN) for seq, one in enumerate(told, start=1)]
    assert await Projector(Database(engine), no_floor).project(facts, nothing) == []


async def ask(engine: AsyncEngine, **about: object) -> RunList:
    async with engine.connect() as connection:
        return await list_runs(connection, AskRuns(**about))  # type: ignore[arg-type]


def run_at(second: int) -> str:
    """The id of a run that was created so many seconds after the beginning."""
    return ids.first_id("run_", BEGAN + second)


@pytest.fixture
async def runs(engine: AsyncEngine) -> list[str]:
    """Six runs, one a second: of two principals in turn, each third of model n, the last failed."""
    told = []
    found = [run_at(second) for second in range(6)]
    for second, run_id in enumerate(found):
        principal, model = ("user_a", "user_b")[second % 2], "mmn"[second % 3]
        at = BEGAN + second
        trace = TRACEPARENT if second == 3 else None
        told.append(accepted(run_id, at=at, principal=principal, model=model, traceparent=trace))
        told.append(started(run_id, epoch=second + 1, at=at))
    told.append(finished(found[4], at=BEGAN + 9))
    told.append(finished(found[5], at=BEGAN + 9, status="failed", error=ERROR))
    await project(engine, told)
    return found


def names(found: RunList) -> list[str]:
    return [run.run_id for run in found.runs]


async def test_runs_are_listed_newest_first_or_oldest_first(
    engine: AsyncEngine, runs: list[str]
) -> None:
    assert names(await ask(engine)) == runs[::-1]
    assert names(await ask(engine, order="asc")) == runs
    assert names(await ask(engine, principal="user_b")) == [runs[5], runs[3], runs[1]]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"model": "n"}, [5, 2]),
        ({"status": "failed"}, [5]),
        ({"failed": True}, [5]),
        ({"trace_id": "0af7651916cd43dd8448eb211c80319c"}, [3]),
        ({"trace_id": "00000000000000000000000000000001"}, []),
        ({"status": "running", "principal": "user_a"}, [2, 0]),
        ({"kind": "chat"}, [5, 4, 3, 2, 1, 0]),
        ({"kind": "embedding"}, []),
        ({"conversation_id": "conv_1"}, []),
        ({"since": BEGAN + 4}, [5, 4]),
        ({"until": BEGAN + 2}, [1, 0]),
        ({"since": BEGAN + 1.5, "until": BEGAN + 3.5}, [3, 2]),
        ({"since": 1e300}, []),
        ({"since": -1e300}, [5, 4, 3, 2, 1, 0]),
        ({"model": "n\0"}, []),
    ],
)
async def test_each_filter_holds(
    engine: AsyncEngine, runs: list[str], wanted: dict[str, object], found: list[int]
) -> None:
    listed = await ask(engine, **wanted)
    assert names(listed) == [runs[index] for index in found]
    assert not listed.has_more


async def test_what_is_known_of_each_run_is_told(engine: AsyncEngine, runs: list[str]) -> None:
    failed, completed, *_ = (await ask(engine)).runs
    assert (failed.status, bytes(failed.error or b"")) == ("failed", ERROR)
    assert (completed.status, completed.total_tokens) == ("completed", 7)
    assert (completed.accepted_at, completed.finished_at) == (BEGAN + 4, BEGAN + 9)
    assert completed.attempts == []


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_make_up_the_list_in_both_directions(
    engine: AsyncEngine, runs: list[str], order: str
) -> None:
    whole = runs if order == "asc" else runs[::-1]
    first = await ask(engine, order=order, limit=4)
    assert (names(first), first.has_more) == (whole[:4], True)
    rest = await ask(engine, order=order, limit=4, after_id=whole[3])
    assert (names(rest), rest.has_more) == (whole[4:], False)
    back = await ask(engine, order=order, limit=2, before_id=whole[4])
    assert (names(back), back.has_more) == (whole[2:4], True)
    between = await ask(engine, order=order, after_id=whole[0], before_id=whole[3])
    assert names(between) == whole[1:3]


async def test_a_list_goes_on_only_from_ones_own_runs(engine: AsyncEngine, runs: list[str]) -> None:
    refusals = []
    for cursor in (runs[1], new_run(), "x", "\0"):  # another's, nobody's, no id at all
        with pytest.raises(InvalidRequest) as refused:
            await ask(engine, principal="user_a", after_id=cursor)
        refusals.append((refused.value.param, refused.value.message.replace(cursor, "ID")))
    assert set(refusals) == {("after", "'after': there is no run ID")}
    with pytest.raises(InvalidRequest) as before:
        await ask(engine, principal="user_a", before_id=runs[1])
    assert before.value.param == "before"


async def test_a_page_of_long_errors_ends_early(engine: AsyncEngine) -> None:
    runs = [run_at(second) for second in range(4)]
    long = b'{"error":"' + b"x" * (2 << 20) + b'"}'
    await project(
        engine,
        [
            one
            for run in runs
            for one in (accepted(run), finished(run, status="failed", error=long))
        ],
    )
    first = await ask(engine, order="asc")
    assert (names(first), first.has_more) == (runs[:2], True)
    back = await ask(engine, order="asc", before_id=runs[3])
    assert (names(back), back.has_more) == (runs[1:3], True)


async def test_lists_are_read_by_an_index(engine: AsyncEngine, runs: list[str]) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SET enable_seqscan = off"))
        plan = await connection.execute(
            text(
                "EXPLAIN SELECT * FROM runs WHERE principal = 'user_a' AND run_id < 'run_z'"
                " ORDER BY run_id DESC LIMIT 21"
            )
        )
        told = "\n".join(row[0] for row in plan)
    assert "Index Scan Backward using ix_runs_principal_run_id_status_kind_model" in told
