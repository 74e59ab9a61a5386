"""`jan dead` on a real bus: what each worker buries is shown, and works when it is sent again."""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from bus import Bus, open_bus
from cli import dead
from cli.exits import BadSetup, Exit
from schemas import ids, subjects
from schemas.commands import Command, encode
from schemas.queries.conversations import AskConversation
from schemas.queries.runs import AskRun
from schemas.writes import CreateConversation
from tests.support import inference, persistence
from tests.support.inference import Desk, open_desk
from tests.support.nats import NatsServer, migrate
from tests.support.postgres import PostgresServer
from tests.support.runs import accepted, finished, new_run, store
from workers.persistence.database import open_engine
from workers.runtime import bury

pytestmark = pytest.mark.usefixtures("jan_finds_nats")


class Jan:
    """The command line, and what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.code = 0

    async def dead(self, *arguments: str) -> str:
        """Run `jan dead …`; returns what it printed."""
        parser = argparse.ArgumentParser(exit_on_error=False)
        dead.add_arguments(parser)
        self._capsys.readouterr()
        self.code = await dead.main(parser.parse_args([*arguments]))
        return self._capsys.readouterr().out

    async def told(self, *arguments: str) -> list[dict[str, Any]]:
        """Run it with --json."""
        lines = (await self.dead(*arguments, "--json")).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.fixture
def jan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Jan:
    monkeypatch.setenv("JAN_API_KEY_SECRET", "s" * 32)
    return Jan(capsys)


@asynccontextmanager
async def connected(nats: NatsServer, user: str) -> AsyncIterator[Bus]:
    async with open_bus(nats.url(user), name=user) as bus:
        yield bus


async def until_dead(jan: Jan, count: int = 1) -> list[dict[str, Any]]:
    async with asyncio.timeout(30):
        while len(found := await jan.told()) < count:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)
    return found


async def answers(bus: Bus, subject: str, question: bytes, wanted: bytes) -> None:
    """Wait until a question is answered with something."""
    async with asyncio.timeout(30):
        while wanted not in await bus.ask(subject, question):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_fact_that_the_database_refused_is_sent_again(
    nats: NatsServer, postgres: PostgresServer, jan: Jan
) -> None:
    """The database refuses a value by a check that is in the way; then it is not any more."""
    run_id = new_run()
    await migrate(nats)
    async with (
        connected(nats, "edge") as edge,
        connected(nats, "inference") as worker,
        postgres.database() as url,
        persistence.running_worker(nats, url),
    ):
        await alter(url, "ADD CONSTRAINT odd CHECK (model <> 'odd')")
        fact = accepted(run_id, model="odd")
        await store(edge, worker, [fact])
        [buried] = await until_dead(jan)
        assert (buried["stream"], buried["subject"]) == ("EVENTS", fact.subject)
        assert "odd" in buried["error"]

        await alter(url, "DROP CONSTRAINT odd")
        [sent] = await jan.told("retry", str(buried["seq"]))
        assert (jan.code, sent["subject"]) == (0, fact.subject)
        question = encode(AskRun(run_id=run_id))
        await answers(edge, "query.runs.get", question, b'"model":"odd"')

        again = await jan.told("retry", str(buried["seq"]))
        assert (jan.code, "was sent again at" in again[0]["error"]) == (1, True)
        assert await jan.told("retry", "--all") == []
        [listed] = await jan.told()
        assert [one["stored"] for one in listed["retried"]] == [sent["stored"]]


async def alter(url: str, change: str) -> None:
    engine = open_engine(url, pool_size=1)
    async with engine.connect() as connection:
        await connection.execute(text(f"ALTER TABLE runs {change}"))
        await connection.commit()
    await engine.dispose()


async def test_a_command_that_nobody_could_carry_out_is_sent_again(
    nats: NatsServer, postgres: PostgresServer, jan: Jan
) -> None:
    await migrate(nats)
    now = time.time()
    body = msgspec.Raw(encode(CreateConversation(title="late")))
    command = Command(
        id=ids.new_id("cmd_"), principal="user_a", at=now - 60, deadline=now - 50, body=body
    )
    async with (
        connected(nats, "edge") as edge,
        connected(nats, "persistence") as worker,
        postgres.database() as url,
        persistence.running_worker(nats, url),
    ):
        # As the commands' intake buries what failed too often, for instance by a fault of ours.
        subject = subjects.command("conversations", "create")
        data = encode(command)
        await bury(worker, subjects.COMMANDS, subject, data, error="a fault", sequence=7)
        unreadable = b"{"
        await edge.store(subject, unreadable)
        found = await until_dead(jan, 2)
        assert [one["subject"] for one in found] == [subject, subject]
        assert found[1]["sequence"] == "1"

        told = await jan.dead("retry", str(found[0]["seq"]))
        assert jan.code == 0
        assert f"sent again on {subject}" in told
        assert "carried out, as message 1 of EVENTS" in told
        [listed] = [one async for one in edge_events(nats)]
        conversation = json.loads(listed)["entity"]
        question = encode(AskConversation(id=conversation, principal="user_a"))
        await answers(edge, "query.conversations.get", question, b'"title":"late"')

        await jan.told("retry", str(found[1]["seq"]))
        assert len(await until_dead(jan, 3)) == 3, "what can't be read is buried again"


async def edge_events(nats: NatsServer) -> AsyncIterator[bytes]:
    async with connected(nats, "cli") as bus:
        async for stored in bus.read_subject(subjects.EVENTS, "events.conversation.>"):
            yield stored.data


@pytest.fixture
async def desk(nats: NatsServer) -> AsyncIterator[Desk]:
    await migrate(nats)
    async with open_desk(nats) as desk:
        yield desk


async def test_a_job_whose_run_has_not_ended_goes_on_as_that_run(
    nats: NatsServer, desk: Desk, jan: Jan
) -> None:
    async with connected(nats, "inference") as worker:
        job = await desk.submit(deadline=-1.0)
        queued = await desk.observer.last_message(subjects.JOBS, "jobs.>")
        assert queued is not None
        # As a worker does after a fault of its own, in the last delivery.
        for data, error in ((queued.data, "a fault"), (b"nonsense", "not read")):
            subject = queued.subject
            await bury(worker, subjects.JOBS, subject, data, error=error, sequence=len(data))
    await desk.observer.nc.flush()
    # The one that is still queued is over its deadline; its run must not have ended yet.
    found = await until_dead(jan, 2)
    sent = await jan.told("retry", "--all", "--subject", "jobs.inference.*.*")
    assert [one["subject"] for one in sent] == [queued.subject] * 2
    assert "new deadline" in sent[0]["told"]
    assert found[0]["error"] == "a fault"
    info = json.loads(await desk.observer.ask("$JS.API.STREAM.INFO.JOBS", b""))
    assert info["state"]["messages"] == 3
    last = [one async for one in desk.observer.read_subject(subjects.JOBS, "jobs.>")]
    again = msgspec.json.decode(last[1].data)
    assert (again["run_id"], again["background"]) == (job.run_id, True)
    assert again["deadline"] > time.time()
    assert last[2].data == b"nonsense"


async def test_a_job_whose_run_has_ended_goes_as_a_new_run(
    nats: NatsServer, desk: Desk, jan: Jan
) -> None:
    job = await desk.submit()
    async with connected(nats, "inference") as failing:
        consumer = subjects.inference_consumer("simulated", subjects.INTERACTIVE)
        queue = await failing.js.pull_subscribe_bind(
            consumer, subjects.JOBS, inbox_prefix=b"_INBOX.inference."
        )
        [taken] = await queue.fetch(1)
        await taken.nak()
    async with inference.running_worker(nats, max_deliver=2):  # its only try is the last one
        await desk.until(job.run_id)
        [buried] = await until_dead(jan)
        assert (buried["stream"], buried["error"]) == ("JOBS", "the run was given up")
    async with inference.running_worker(nats):
        [sent] = await jan.told("retry", str(buried["seq"]))
        assert jan.code == 0
        assert f"{job.run_id} has ended" in sent["told"]
        new = sent["run_id"]
        assert ids.is_owner(new, "somebody", b"s" * 32)
        await desk.until(new)
        [end] = await desk.finished(new)
        assert end.status == "completed"
    told = await jan.dead("show", str(buried["seq"]))
    assert new in told, "the history tells it"
    accepted_again = [
        one
        async for one in desk.observer.read_subject(
            subjects.EVENTS, subjects.run_event("accepted", new)
        )
    ]
    assert len(accepted_again) == 1


async def test_one_is_shown_with_its_headers_its_history_and_its_body(
    nats: NatsServer, jan: Jan
) -> None:
    await migrate(nats)
    async with connected(nats, "persistence") as worker:
        end = finished(new_run())
        for data, error in ((end.data, "of the values\x1b[2J"), (b"\x00\xff", "not JSON")):
            await bury(worker, "EVENTS", end.subject, data, error=error, sequence=len(data))
    assert "nothing is dead" not in await jan.dead()
    shown = await jan.dead("show", "1")
    assert f"was      message {len(end.data)} of EVENTS" in shown
    assert "error    of the values" in shown
    assert "header   Nats-Msg-Id: DEAD:EVENTS:" in shown
    assert '  "run_id": "run_' in shown, "the body is written over lines"
    assert "\x1b" not in shown
    assert "b'\\x00\\xff'" in await jan.dead("show", "2")
    [told] = await jan.told("show", "2")
    assert told["base64"] == "AP8="
    assert [one["seq"] for one in await jan.told("--subject", "events.run.>")] == [1, 2]
    assert await jan.told("list", "--subject", "jobs.>") == []


async def test_two_who_send_the_same_again_at_once_do_so_once(nats: NatsServer, jan: Jan) -> None:
    await migrate(nats)
    async with connected(nats, "persistence") as worker:
        end = finished(new_run())
        await bury(worker, "EVENTS", end.subject, end.data, error="x", sequence=1)
    results = await asyncio.gather(*[jan.told("retry", "1") for _ in range(4)])
    del results
    async with connected(nats, "cli") as bus:
        stored = [one async for one in bus.read_subject(subjects.EVENTS, "events.>")]
    assert [one.data for one in stored] == [end.data]
    [listed] = await jan.told()
    assert len(listed["retried"]) == 1


async def test_none_can_be_taken_away_or_made_up_by_who_sends_again(nats: NatsServer) -> None:
    await migrate(nats)
    async with connected(nats, "cli") as bus:
        for subject in ("$JS.API.STREAM.MSG.DELETE.DEAD", "$JS.API.STREAM.PURGE.DEAD"):
            with pytest.raises(Exception, match="no answer"):
                await bus.ask(subject, b'{"seq":1}', timeout=0.5)
        with pytest.raises(Exception, match="did not answer"):
            await bus.store("dead.events.events.run.finished.7", b"{}", timeout=0.5)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["show", "7"], Exit, "no dead message has the number 7"),
        (["show", "-1"], Exit, "no dead message"),
        (["retry", "7"], Exit, "no dead message has the number 7"),
        (["retry"], BadSetup, "which ones"),
        (["retry", "1", "--all"], BadSetup, "which ones"),
        (["--subject", "two words"], BadSetup, "is no subject"),
        (["--subject", "events.>.x"], BadSetup, "is no subject"),
    ],
)
async def test_what_can_not_be_done_is_said(
    nats: NatsServer, jan: Jan, arguments: list[str], kind: type[Exit], message: str
) -> None:
    await migrate(nats)
    with pytest.raises(kind, match=message):
        await jan.dead(*arguments)


async def test_an_empty_stream_says_so(nats: NatsServer, jan: Jan) -> None:
    await migrate(nats)
    assert await jan.dead() == "nothing is dead\n"
    assert await jan.dead("retry", "--all") == "there is nothing to send again\n"
    assert await jan.told() == []
