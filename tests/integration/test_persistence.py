"""The persistence worker on a real bus and database: what is told arrives, whatever goes down."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from bus import Bus, open_bus
from schemas import subjects
from schemas.commands import encode
from schemas.errors import Gone, InvalidRequest, NotFound, Unavailable
from schemas.queries import decode_answer
from schemas.queries.runs import AskRun, RunEvents, RunFacts, RunRecord, RunResult
from tests.support.nats import NatsServer, migrate
from tests.support.persistence import running_worker
from tests.support.postgres import PostgresServer
from tests.support.runs import REQUEST, accepted, finished, new_run, store, tellers, whole_run

TIMEOUT = 30.0
DEEP = b'{"run_id":' + b"[" * 5000 + b"]" * 5000 + b"}"


@dataclass(frozen=True)
class Place:
    """Connections as the other processes have them."""

    edge: Bus
    inference: Bus
    cli: Bus

    async def tell(self, runs: Sequence[str]) -> None:
        for run_id in runs:
            await store(self.edge, self.inference, whole_run(run_id))

    async def ask(self, run_id: str, principal: str | None = None) -> RunFacts:
        question = encode(AskRun(run_id=run_id, principal=principal))
        answer = await self.cli.ask(subjects.query("runs", "get"), question, timeout=5.0)
        return decode_answer(answer, RunFacts)

    async def until_completed(self, runs: Sequence[str]) -> None:
        for run_id in runs:
            await eventually(lambda run_id=run_id: self._completed(run_id))  # type: ignore[misc]

    async def _completed(self, run_id: str) -> bool:
        try:
            return (await self.ask(run_id)).status == "completed"
        except (NotFound, Unavailable):
            return False


@asynccontextmanager
async def place(nats: NatsServer) -> AsyncIterator[Place]:
    await migrate(nats)
    async with (
        tellers(nats) as (edge, inference),
        open_bus(nats.url("cli"), name="cli") as cli,
    ):
        yield Place(edge, inference, cli)


async def eventually(holds: Callable[[], Awaitable[bool]], timeout: float = TIMEOUT) -> None:
    """Ask again and again: there is nothing to listen to."""
    async with asyncio.timeout(timeout):
        while not await holds():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)


async def test_what_is_told_can_be_asked_for(nats: NatsServer, postgres: PostgresServer) -> None:
    run_id = new_run()
    async with place(nats) as others, postgres.database() as url, running_worker(nats, url):
        await others.tell([run_id])
        await others.until_completed([run_id])

        found = await others.ask(run_id, principal="user_a")
        assert (found.completion_tokens, found.attempts[0].worker) == (4, "inference-1")
        with pytest.raises(NotFound):
            await others.ask(run_id, principal="user_b")
        answer = await others.edge.ask("query.runs.events", encode(AskRun(run_id=run_id)))
        events = decode_answer(answer, RunEvents).events
        assert [event.verb for event in events] == ["accepted", "started", "finished"]


async def test_a_result_is_read_from_the_log(nats: NatsServer, postgres: PostgresServer) -> None:
    whole, failed, large = new_run(), new_run(), new_run()
    async with place(nats) as others, postgres.database() as url, running_worker(nats, url):
        error = b'{"error":{"message":"no"}}'
        await others.tell([whole])
        for told in (
            [accepted(failed), finished(failed, status="failed", error=error, result=None)],
            [accepted(large), finished(large, result=None)],
        ):
            await store(others.edge, others.inference, told)
        await others.until_completed([whole, large])

        async def result(run_id: str) -> RunResult:
            question = encode(AskRun(run_id=run_id, principal="user_a"))
            return decode_answer(await others.edge.ask("query.runs.result", question), RunResult)

        assert bytes((await result(whole)).result or b"") == b'{"id":"x"}'
        told_failed = await result(failed)
        assert (told_failed.status, bytes(told_failed.error or b"")) == ("failed", error)
        assert (await result(large)).result is None
        with pytest.raises(NotFound):
            await result(new_run())


async def test_a_runs_command_is_told_to_its_owner_and_to_an_operator(
    nats: NatsServer, postgres: PostgresServer
) -> None:
    whole, begun = new_run(), new_run()
    async with place(nats) as others, postgres.database() as url, running_worker(nats, url):
        await store(others.edge, others.inference, [accepted(begun), *whole_run(whole)])
        await others.until_completed([whole])

        async def record(run_id: str, principal: str | None) -> RunRecord:
            question = encode(AskRun(run_id=run_id, principal=principal))
            return decode_answer(await others.edge.ask("query.runs.command", question), RunRecord)

        for principal in ("user_a", None):
            told = await record(whole, principal)
            assert told.accepted.command.run_id == whole
            assert bytes(told.accepted.command.request or b"") == REQUEST
            assert told.finished is not None
            assert bytes(told.finished.result or b"") == b'{"id":"x"}'
        assert (await record(begun, "user_a")).finished is None
        for run_id, principal in ((whole, "user_b"), (new_run(), "user_a")):
            with pytest.raises(NotFound):
                await record(run_id, principal)


async def test_a_command_that_the_log_no_longer_holds_is_gone(
    nats: NatsServer, postgres: PostgresServer
) -> None:
    late = new_run()
    async with place(nats) as others, postgres.database() as url, running_worker(nats, url):
        await store(others.edge, others.inference, [finished(late)])  # its beginning has expired
        await others.until_completed([late])
        question = encode(AskRun(run_id=late))
        answer = await others.edge.ask("query.runs.command", question)
        with pytest.raises(Gone):
            decode_answer(answer, RunRecord)


@pytest.mark.parametrize("question", [b"", b"{", b"[]", b"\xff", b"{}", b'{"run_id":7}'])
async def test_a_bad_question_gets_an_answer(
    nats: NatsServer, postgres: PostgresServer, question: bytes
) -> None:
    async with place(nats) as others, postgres.database() as url, running_worker(nats, url):
        answer = await others.edge.ask("query.runs.get", question)
        with pytest.raises(InvalidRequest):
            decode_answer(answer, RunFacts)


async def test_poison_goes_to_dead_and_stops_nothing(
    nats: NatsServer, postgres: PostgresServer
) -> None:
    runs = [new_run() for _ in range(5)]
    async with place(nats) as others, postgres.database() as url:
        garbage = await others.inference.store("events.run.finished.7", b'{"run_id":\x00')
        refused = finished(new_run(), at=1e300)
        await others.inference.store(refused.subject, refused.data)
        deep = await others.inference.store("events.run.finished.8", DEEP)
        await others.tell(runs)
        async with running_worker(nats, url) as worker:
            await others.until_completed(runs)

            dead = [stored async for stored in others.cli.read_subject("DEAD", "dead.>")]
            by_subject = {stored.subject: stored for stored in dead}
            buried = by_subject["dead.events.events.run.finished.7"]
            assert buried.data == b'{"run_id":\x00'
            assert b"Jan-Error: " in buried.headers
            assert f"DEAD:EVENTS:{garbage.seq}:0".encode() in buried.headers
            assert by_subject[f"dead.events.{refused.subject}"].data == refused.data
            assert f"DEAD:EVENTS:{deep.seq}:0".encode() in (
                by_subject["dead.events.events.run.finished.8"].headers
            )
            assert worker.registry.get_sample_value("jan_dead_events_total") == 3
            assert await unacked(nats) == 0


async def unacked(nats: NatsServer) -> int:
    """How many events wait, for a delivery or for an ack."""
    async with open_bus(nats.url("cli"), name="cli") as bus:
        info = await bus.js.consumer_info("EVENTS", "persistence-log")
        return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def test_two_workers_share_the_log(nats: NatsServer, postgres: PostgresServer) -> None:
    runs = [new_run() for _ in range(60)]
    async with (
        place(nats) as others,
        postgres.database() as url,
        running_worker(nats, url, batch=10) as one,
        running_worker(nats, url, batch=10) as two,
    ):
        await others.tell(runs)
        await others.until_completed(runs)

        async def all_acked() -> bool:
            return await unacked(nats) == 0

        await eventually(all_acked)
        shares = [
            worker.registry.get_sample_value("jan_projected_events_total") for worker in (one, two)
        ]
        assert sum(share or 0 for share in shares) == 180


async def test_a_killed_database_loses_nothing(
    nats: NatsServer, own_postgres: PostgresServer
) -> None:
    before, meanwhile = [new_run() for _ in range(3)], [new_run() for _ in range(20)]
    async with (
        place(nats) as others,
        own_postgres.database() as url,
        running_worker(nats, url) as worker,
    ):
        await others.tell(before)
        await others.until_completed(before)
        own_postgres.kill()
        await others.tell(meanwhile)

        async def says(state: str) -> bool:
            return worker.work.presence() == {"database": state}

        await eventually(lambda: says("down"))
        asked = time.monotonic()
        with pytest.raises(Unavailable):
            await others.ask(before[0])
        assert time.monotonic() - asked < 4
        own_postgres.start()
        await others.until_completed([*before, *meanwhile])
        await eventually(lambda: says("ok"))


async def test_a_frozen_database_is_noticed_and_waited_for(
    nats: NatsServer, own_postgres: PostgresServer
) -> None:
    runs = [new_run() for _ in range(3)]
    async with (
        place(nats) as others,
        own_postgres.database() as url,
        running_worker(nats, url) as worker,
    ):
        await others.tell(runs[:1])
        await others.until_completed(runs[:1])
        own_postgres.freeze()

        async def is_down() -> bool:
            return worker.work.presence() == {"database": "down"}

        await eventually(is_down)
        await others.tell(runs[1:])
        with pytest.raises(Unavailable):
            await others.ask(runs[0])
        own_postgres.thaw()
        await others.until_completed(runs)


async def test_a_worker_stops_in_time_while_the_database_is_away(
    nats: NatsServer, own_postgres: PostgresServer
) -> None:
    runs = [new_run() for _ in range(3)]
    async with place(nats) as others, own_postgres.database() as url:
        async with running_worker(nats, url) as worker:
            own_postgres.kill()
            await others.tell(runs)

            async def is_down() -> bool:
                return worker.work.presence() == {"database": "down"}

            await eventually(is_down)
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 4
        own_postgres.start()
        async with running_worker(nats, url):
            await others.until_completed(runs)


async def test_a_restarted_bus_loses_nothing(nats: NatsServer, postgres: PostgresServer) -> None:
    before, later = [new_run() for _ in range(3)], [new_run() for _ in range(20)]
    async with place(nats) as others, postgres.database() as url, running_worker(nats, url):
        await others.tell(before)
        await others.until_completed(before)
        nats.kill()
        telling = asyncio.create_task(others.tell(later))
        await asyncio.sleep(1.0)  # the outage itself
        nats.start()
        await telling
        await others.until_completed([*before, *later])
