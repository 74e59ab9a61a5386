"""A log that is exported and imported elsewhere, on real servers: the tables become the same."""

import argparse
import asyncio
import io
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Table, select

from bus import Bucket, Bus, Stored, header_value, open_bus, streams
from cli import export, import_events
from cli.exits import BadSetup, Exit
from edge.stored import Positions
from edge.stored import Stored as StoredThings
from schemas import subjects
from schemas.exports import decode_exported
from tests.integration.test_rebuild import fill
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.persistence import running_worker
from tests.support.postgres import PostgresServer
from tests.support.runs import accepted, finished, new_run, started, store, tellers, whole_run
from workers.persistence import positions
from workers.persistence.database import open_engine
from workers.persistence.exports import read_facts
from workers.persistence.facts import to_fact
from workers.persistence.tables import STATE, entity_events, run_attempts, run_events, runs

pytestmark = pytest.mark.usefixtures("jan_finds_nats")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[NatsServer]:
    """Another server, as it is after its first start."""
    with running_nats(tmp_path / "second") as server:
        yield server


@dataclass(frozen=True)
class Place:
    """A server's log, and its database."""

    nats: NatsServer
    url: str
    edge: Bus
    inference: Bus
    cli: Bus

    async def caught_up(self) -> None:
        """Wait until the database has all of the log."""
        _, last = await streams.bounds(self.cli, subjects.EVENTS)
        engine = open_engine(self.url, pool_size=1)
        async with asyncio.timeout(30), engine.connect() as connection:
            while await positions.reached(connection) < last:
                await connection.rollback()
                await asyncio.sleep(0.02)
        await engine.dispose()

    async def rows(self, table: Table, *, but: frozenset[str] = frozenset()) -> list[Any]:
        """A table's rows in an order of their own."""
        engine = open_engine(self.url, pool_size=1)
        columns = [column for column in table.c if column.name not in but]
        async with engine.connect() as connection:
            found = [tuple(row) for row in await connection.execute(select(*columns))]
        await engine.dispose()
        return sorted(found, key=repr)

    async def log(self) -> list[Stored]:
        return [one async for one in self.cli.read_subject(subjects.EVENTS, "events.>")]


@asynccontextmanager
async def place(nats: NatsServer, postgres: PostgresServer) -> AsyncIterator[Place]:
    await migrate(nats)
    async with (
        postgres.database() as url,
        running_worker(nats, url),
        tellers(nats) as (edge, inference),
        open_bus(nats.url("cli"), name="cli") as cli,
    ):
        yield Place(nats, url, edge, inference, cli)


async def live(here: Place) -> None:
    """Facts of runs, of conversations, of a newer release, and one that nobody can read."""
    bucket = Bucket(here.edge, subjects.KV_POSITIONS)
    stored = StoredThings(here.edge, Positions(bucket, lambda: False), patience=5.0)
    await fill(stored, here.edge, here.inference, here.cli)
    run_id, at = new_run(), time.time()
    pretty = json.dumps({"model": "m", "messages": []}, indent=2).encode()
    told = [accepted(run_id, at=at, request=pretty), started(run_id, at=at)]
    error = b'{"error":{"message":"\\u0000 no"}}'
    told.append(finished(run_id, at=at + 1, status="failed", error=error, usage=None))
    await store(here.edge, here.inference, told)
    newer = b'{"run_id":"%b","why":"it can"}' % run_id.encode()  # without a time of its own
    await here.cli.store(subjects.run_event("paused", run_id), newer)
    await here.cli.store("events.run.finished.7", b'{"run_id":\x00', msg_id="garbage")
    await here.caught_up()


def on_one_line(data: bytes) -> bytes:
    """A body as it is exported: a request may have been written over lines."""
    return data.replace(b"\n", b" ")


async def exported(bus: Bus, **options: Any) -> bytes:
    out = io.BytesIO()
    await export.write_log(bus, out, belongs=options.pop("belongs", lambda _: True), **options)
    return out.getvalue()


async def test_the_tables_of_the_second_server_equal_those_of_the_first(
    nats: NatsServer, other: NatsServer, postgres: PostgresServer
) -> None:
    async with place(nats, postgres) as first, place(other, postgres) as second:
        await live(first)
        lines = await exported(first.cli)
        count = await import_events.import_file(second.cli, io.BytesIO(lines))
        assert count == len(await first.log())
        await second.caught_up()

        for table in (runs, run_attempts, *STATE):
            assert await second.rows(table) == await first.rows(table), table.name
        placed = frozenset({"seq"})  # in each server's log
        for table in (run_events, entity_events):
            told = await second.rows(table, but=placed)
            assert told == await first.rows(table, but=placed), table.name
        assert len(await first.rows(runs)) == 8
        times = [(fact.time, fact.imported) for fact in map(to_fact, await second.log())]
        assert times == [(one.time, True) for one in await first.log()]
        for one, two in zip(await first.log(), await second.log(), strict=True):
            assert (one.subject, on_one_line(one.data)) == (two.subject, two.data)
            msg_ids = [header_value(x.headers, b"Nats-Msg-Id") for x in (one, two)]
            assert msg_ids[0] in (None, msg_ids[1])

        again = await exported(second.cli)
        assert strip(again) == strip(lines), "what was imported is exported as it once was"


def strip(lines: bytes) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in json.loads(line).items() if name not in ("seq", "id")}
        for line in lines.splitlines()
    ]


async def test_a_line_says_what_lies_where(nats: NatsServer, postgres: PostgresServer) -> None:
    async with place(nats, postgres) as here:
        await live(here)
        lines = (await exported(here.cli)).splitlines()
        facts = list(map(decode_exported, lines))
        log = await here.log()
        assert [(fact.seq, fact.subject, fact.body) for fact in facts] == [
            (one.seq, one.subject, on_one_line(one.data)) for one in log
        ]
        told = json.loads(lines[0])
        assert list(told) == ["seq", "time", "subject", "id", "data"]
        assert told["data"]["principal"]
        assert json.loads(lines[-1])["base64"] == "eyJydW5faWQiOgA="
        # A request that was written over lines, and a fact of which nobody knows what it says.
        pretty = [json.loads(line) for line in lines if b'"request":{   "model"' in line]
        assert [one["data"]["command"]["request"]["model"] for one in pretty] == ["m"]
        over_lines = await here.cli.store("events.odd.said.7", b'{\n"a": 1}')
        line = (await exported(here.cli)).splitlines()[-1]
        told = decode_exported(line)
        assert (told.seq, told.body, told.data) == (over_lines.seq, b'{\n"a": 1}', None)


async def test_a_rebuild_reads_what_an_export_has_written(
    nats: NatsServer, postgres: PostgresServer, tmp_path: Path
) -> None:
    async with place(nats, postgres) as here:
        await live(here)
        file = tmp_path / "events.jsonl"
        file.write_bytes(await exported(here.cli))
        assert list(read_facts(file)) == [
            to_fact(one)._replace(data=on_one_line(one.data)) for one in await here.log()
        ]


async def test_parts_of_the_log_are_exported(nats: NatsServer, postgres: PostgresServer) -> None:
    async with place(nats, postgres) as here:
        await store(here.edge, here.inference, whole_run(new_run(), principal="user_a"))
        middle = (await here.log())[-1].time
        mine = new_run()
        await store(here.edge, here.inference, whole_run(mine, principal="user_b"))

        async def sequences(**options: Any) -> list[int]:
            lines = (await exported(here.cli, **options)).splitlines()
            return [decode_exported(line).seq for line in lines]

        assert await sequences(since=middle + 1e-6) == [4, 5, 6]
        assert await sequences(until=middle) == [1, 2, 3]
        belongs = export.Belonging("user_b", export.load("/nonexistent")).check
        assert await sequences(belongs=belongs) == [4, 5, 6]
        assert await sequences(since=time.time() + 60) == []


async def test_an_import_that_was_stopped_goes_on_where_it_stopped(
    nats: NatsServer, other: NatsServer, postgres: PostgresServer
) -> None:
    async with place(nats, postgres) as first, place(other, postgres) as second:
        await live(first)
        lines = (await exported(first.cli)).splitlines(keepends=True)
        part = io.BytesIO(b"".join(lines[:7]) + b'{"seq": 8, "time"')  # cut off
        with pytest.raises(BadSetup, match="line 8 is none of an export"):
            await import_events.import_file(second.cli, part)
        whole = io.BytesIO(b"".join(lines))
        assert await import_events.import_file(second.cli, whole) == len(lines) - 7
        whole.seek(0)
        assert await import_events.import_file(second.cli, whole) == 0
        told = [(one.subject, one.data) for one in await second.log()]
        assert told == [(one.subject, on_one_line(one.data)) for one in await first.log()]


async def test_a_log_that_holds_something_is_only_appended_to(
    nats: NatsServer, other: NatsServer, postgres: PostgresServer
) -> None:
    async with place(nats, postgres) as first, place(other, postgres) as second:
        await store(first.edge, first.inference, whole_run(new_run()))
        lines = await exported(first.cli)
        await store(second.edge, second.inference, whole_run(new_run()))
        with pytest.raises(BadSetup, match="the log is not empty"):
            await import_events.import_file(second.cli, io.BytesIO(lines))
        assert len(await second.log()) == 3
        imported = await import_events.import_file(second.cli, io.BytesIO(lines), append=True)
        assert imported == 3
        await second.caught_up()
        assert len(await second.rows(runs)) == 2


@pytest.mark.parametrize("append", [False, True])
async def test_a_fact_that_the_log_had_twice_is_imported_twice(
    nats: NatsServer, append: bool
) -> None:
    """Under one id: the second time the server that it came from had forgotten the first."""
    await migrate(nats)
    ids = ["a", "b", "a", *[f"id-{n}" for n in range(600)], "b", "c"]
    lines = b"".join(
        b'{"seq":%d,"time":1700000000.5,"subject":"events.run.paused.7","id":"%b","data":{"n":%d}}\n'
        % (number, name.encode(), number)
        for number, name in enumerate(ids, start=3)
    )
    async with open_bus(nats.url("cli"), name="cli") as bus:
        assert await import_events.import_file(bus, io.BytesIO(lines), append=append) == len(ids)
        stored = [one async for one in bus.read_subject(subjects.EVENTS, "events.>")]
    told = [msgspec.json.decode(one.data)["n"] for one in stored]
    assert sorted(told) == list(range(3, 3 + len(ids)))
    if not append:
        assert told == sorted(told)


async def test_an_import_is_alone_in_the_log_unless_it_appends(nats: NatsServer) -> None:
    await migrate(nats)
    line = b'{"seq":%d,"time":1.5,"subject":"events.run.paused.7","data":{}}\n'
    async with open_bus(nats.url("cli"), name="cli") as bus:
        await import_events.import_file(bus, io.BytesIO(line % 1))
        sender = import_events._Sender(bus, "export", 1)
        await bus.store("events.run.paused.7", b"{}")
        await sender.send(decode_exported(line % 2))
        with pytest.raises(Exit, match="somebody else writes to the log"):
            await sender.drain()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"nonsense", "malformed"),
        (b'{"seq":1,"time":1.0,"subject":"events.run.paused.7"}', "neither data nor base64"),
        (b'{"seq":1,"time":1.0,"subject":"jobs.x.y.z","data":{}}', "no subject of the log"),
        (b'{"seq":1,"time":1.0,"subject":"events.run.>.7","data":{}}', "no subject of the log"),
        (b'{"seq":0,"time":1.0,"subject":"events.run.paused.7","data":{}}', "is not after 0"),
        (b'{"seq":1,"time":-1,"subject":"events.run.paused.7","data":{}}', "time is not one"),
        (b'{"seq":1,"time":1,"subject":"events.a.b.7","id":"a\\r\\nb","data":{}}', "id is not one"),
        (b'{"seq":1,"time":1.0,"subject":"events.a.b.7","base64":"?"}', "base64"),
    ],
)
async def test_what_is_no_export_is_refused_by_its_line(
    nats: NatsServer, line: bytes, why: str
) -> None:
    await migrate(nats)
    async with open_bus(nats.url("cli"), name="cli") as bus:
        with pytest.raises(BadSetup, match="line 1 is none of an export") as refused:
            await import_events.import_file(bus, io.BytesIO(line + b"\n"))
        assert why.lower() in str(refused.value).lower()
        assert await bus.last_message(subjects.EVENTS, "events.>") is None


async def test_the_verbs_read_and_write_files(
    nats: NatsServer,
    other: NatsServer,
    postgres: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    await migrate(other)
    async with place(nats, postgres) as here:
        await store(here.edge, here.inference, whole_run(new_run()))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
        assert await export.main(parsed(export, "--since", "1h")) == 0
        written = sys.stdout.buffer.getvalue()  # type: ignore[attr-defined]
        monkeypatch.undo()
    assert b"3 exported" in capfdbinary.readouterr().err
    file = tmp_path / "events.jsonl"
    file.write_bytes(written)
    monkeypatch.setenv("JAN_NATS_URL", other.url("cli"))
    assert await import_events.main(parsed(import_events, str(file))) == 0
    assert b"3 imported" in capfdbinary.readouterr().err
    with pytest.raises(BadSetup, match="can't be read"):
        await import_events.main(parsed(import_events, str(tmp_path / "none")))


def parsed(verb: Any, *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return parser.parse_args([*arguments, "--data", "/nonexistent"])
