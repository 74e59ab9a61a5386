"""The files of nats/ on a real server: what migrating does, and what each user may do."""

import argparse
import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats import connect as connect_plainly
from nats.aio.client import Client
from nats.errors import Error
from nats.errors import TimeoutError as NatsTimeout

from bus.buckets import Bucket
from bus.connection import Bus
from bus.opening import connect, connect_options, open_bus
from bus.topology import TopologyError, apply, plan
from bus.wire import Message
from cli import migrate as verb
from schemas import subjects
from schemas.catalogue import decode_catalogue
from schemas.errors import BusError, WrongLastSequence
from schemas.providers import Providers, default_providers, read_providers
from tests.support.nats import NATS, USERS, NatsServer, migrate

RUN = "run_01jd00000000000000000000aa"
JOB = subjects.inference_job("simulated", subjects.INTERACTIVE)
CONSUMER = subjects.inference_consumer("simulated", subjects.INTERACTIVE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the files, to be changed."""
    return Path(shutil.copytree(NATS, tmp_path / "nats"))


@asynccontextmanager
async def client(nats: NatsServer, user: str = "migrate") -> AsyncIterator[Client]:
    nc = await connect(nats.url(user), name="test")
    try:
        yield nc
    finally:
        await nc.close()


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


async def api(nc: Client, subject: str, body: bytes = b"") -> dict[str, Any]:
    return dict(json.loads((await nc.request(f"$JS.API.{subject}", body)).data))


def providers(*names: str) -> Providers:
    entries = [f"  - {{name: {name}, kind: simulated, models: [{{id: m}}]}}\n" for name in names]
    return read_providers("providers:\n" + "".join(entries))


async def count(nc: Client, stream: str) -> int:
    return int((await api(nc, f"STREAM.INFO.{stream}"))["state"]["messages"])


# Migrating


async def test_migrating_twice_changes_nothing(nats: NatsServer) -> None:
    changes = await migrate(nats)
    assert {change.action for change in changes} == {"create"}
    assert changes[-1].what == "catalogue of models"
    assert await migrate(nats) == []


async def test_migrating_after_a_crash_of_the_server_changes_nothing(nats: NatsServer) -> None:
    await migrate(nats)
    nats.kill()
    nats.start()
    assert await migrate(nats) == []


async def test_two_migrations_at_once_agree(nats: NatsServer) -> None:
    results = await asyncio.gather(migrate(nats), migrate(nats), return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert len(refused) <= 1
    assert all("catalogue" in str(refusal) for refusal in refused)
    assert await migrate(nats) == []


async def test_a_difference_is_shown_and_then_removed(nats: NatsServer, folder: Path) -> None:
    await migrate(nats)
    change(folder / "streams" / "EVENTS.json", max_age=3_600_000_000_000)
    async with client(nats) as nc:
        [difference] = await plan(nc, folder, default_providers())
        assert str(difference) == (
            "update stream EVENTS\n    max_age: 1209600000000000 -> 3600000000000"
        )
        assert (await api(nc, "STREAM.INFO.EVENTS"))["config"]["max_age"] == 1209600000000000
        assert await apply(nc, folder, default_providers()) == [difference]
        assert await plan(nc, folder, default_providers()) == []


async def test_what_the_files_do_not_name_stays(nats: NatsServer, folder: Path) -> None:
    await migrate(nats)
    async with client(nats) as nc:
        config = (await api(nc, "STREAM.INFO.DEAD"))["config"]
        config["max_msg_size"] = 1 << 20
        await api(nc, "STREAM.UPDATE.DEAD", json.dumps(config).encode())
        change(folder / "streams" / "DEAD.json", description="Other words")
        await apply(nc, folder, default_providers())
        config = (await api(nc, "STREAM.INFO.DEAD"))["config"]
        assert (config["description"], config["max_msg_size"]) == ("Other words", 1 << 20)


async def test_a_changed_consumer_is_updated_in_place(nats: NatsServer, folder: Path) -> None:
    await migrate(nats)
    file = folder / "consumers" / "inference.json"
    file.write_text(file.read_text().replace('"max_deliver": 20', '"max_deliver": 7'))
    async with client(nats) as nc:
        changes = await apply(nc, folder, default_providers())
        assert [change.differences for change in changes] == [(("max_deliver", 20, 7),)] * 4
        assert await plan(nc, folder, default_providers()) == []


async def test_a_newer_releases_stream_is_refused(nats: NatsServer, folder: Path) -> None:
    newer = folder / "streams" / "TOKENS.json"
    change(newer, metadata={"jan.topology": "2"})
    async with client(nats) as nc:
        await apply(nc, folder, default_providers())
        with pytest.raises(TopologyError, match="newer release"):
            await apply(nc, NATS, default_providers())


@pytest.mark.parametrize(
    ("field", "value"), [("max_msgs_per_subject", 1), ("max_bytes", 100), ("max_msgs", 2)]
)
async def test_a_limit_that_would_delete_jobs_is_refused(
    nats: NatsServer, folder: Path, field: str, value: int
) -> None:
    await migrate(nats)
    async with client(nats) as nc, open_bus(nats.url("edge"), name="edge-1") as bus:
        await bus.store(subjects.inference_job("other", "interactive"), b"x" * 100)
        change(folder / "streams" / "JOBS.json", **{field: value})
        if field != "max_bytes":
            assert len(await plan(nc, folder, default_providers())) == 1
        for _ in range(2):
            await bus.store(JOB, b"x" * 100)
        with pytest.raises(TopologyError, match=f"stream JOBS: {field} {value} would delete"):
            await apply(nc, folder, default_providers())
        assert await count(nc, "JOBS") == 3


async def test_an_age_that_would_delete_events_is_refused(nats: NatsServer, folder: Path) -> None:
    await migrate(nats)
    async with client(nats) as nc, open_bus(nats.url("edge"), name="edge-1") as bus:
        await bus.store(subjects.run_event("accepted", RUN), b"{}")
        change(folder / "streams" / "EVENTS.json", max_age=1, duplicate_window=1)
        with pytest.raises(TopologyError, match="max_age 1 would delete"):
            await apply(nc, folder, default_providers())


async def test_what_the_server_refuses_is_one_line(nats: NatsServer, folder: Path) -> None:
    await migrate(nats)
    change(folder / "streams" / "EVENTS.json", storage="memory")
    async with client(nats) as nc:
        with pytest.raises(TopologyError, match=r"can't update stream EVENTS: .*storage"):
            await apply(nc, folder, default_providers())


async def test_a_new_pool_gets_its_consumers_before_its_models_are_told(
    nats: NatsServer,
) -> None:
    await migrate(nats, providers("a"))
    changes = [change.what for change in await migrate(nats, providers("a", "b"))]
    assert changes == [
        "consumer inference-b-interactive of JOBS",
        "consumer inference-b-background of JOBS",
        "catalogue of models",
    ]


async def test_a_pool_that_is_gone_keeps_its_consumers_and_jobs(nats: NatsServer) -> None:
    await migrate(nats, providers("a", "b"))
    [change] = await migrate(nats, providers("b"))
    assert change.differences == (("m", ["a/m", "b/m"], ["b/m"]),)
    async with client(nats) as nc:
        names = (await api(nc, "CONSUMER.NAMES.JOBS"))["consumers"]
    assert "inference-a-interactive" in names


async def test_models_keep_their_time_of_creation(nats: NatsServer) -> None:
    await migrate(nats, providers("a"))
    async with open_bus(nats.url("cli"), name="cli") as bus:
        before = await Bucket(bus, subjects.KV_MODELS).get(subjects.CATALOGUE_KEY)
        await migrate(nats, providers("a", "b"))
        after = await Bucket(bus, subjects.KV_MODELS).get(subjects.CATALOGUE_KEY)
    assert before is not None
    assert after is not None
    created = decode_catalogue(before.value).models[0].created
    assert decode_catalogue(after.value).models[0].created == created > 0


async def test_an_old_server_is_refused() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.10.29","max_payload":1048576,"headers":true}\r\n')
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    old = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with old:
        port = old.sockets[0].getsockname()[1]
        nc = await connect(f"nats://127.0.0.1:{port}", name="test")
        with pytest.raises(TopologyError, match=r"nats-server 2\.10\.29 is too old: 2\.11"):
            await plan(nc, NATS, default_providers())
        await nc.close()


async def test_the_verb_shows_applies_and_then_has_nothing_to_do(
    nats: NatsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JAN_NATS_URL", nats.url("migrate"))
    monkeypatch.delenv("JAN_DATABASE_URL", raising=False)
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    check = parser.parse_args(["--data", str(tmp_path), "--check"])
    really = parser.parse_args(["--data", str(tmp_path)])
    assert await verb.main(check) == 1
    assert "create stream JOBS" in capsys.readouterr().out
    assert await verb.main(really) == 0
    assert "create stream JOBS" in capsys.readouterr().out
    assert await verb.main(check) == 0
    assert await verb.main(really) == 0
    assert capsys.readouterr().out == "nothing to do\n"


# What the streams promise


async def test_a_full_queue_refuses_and_keeps_what_it_accepted(
    nats: NatsServer, folder: Path
) -> None:
    change(folder / "streams" / "JOBS.json", max_msgs_per_subject=3)
    async with client(nats) as nc, open_bus(nats.url("edge"), name="edge-1") as bus:
        await apply(nc, folder, default_providers())
        for number in range(3):
            await bus.store(JOB, b"%d" % number, msg_id=f"JOBS:inference:{number}:0")
        with pytest.raises(BusError) as refused:
            await bus.store(JOB, b"3", msg_id="JOBS:inference:3:0")
        assert refused.value.err_code == 10077
        await bus.store(subjects.inference_job("simulated", subjects.BACKGROUND), b"other queue")
        assert [data async for data in pulled(nats, 3)] == [b"0", b"1", b"2"]
        await bus.store(JOB, b"3", msg_id="JOBS:inference:3:0")


async def pulled(nats: NatsServer, number: int) -> AsyncIterator[bytes]:
    """Pull jobs as a worker does, and take them off the queue."""
    async with client(nats, "inference") as nc:
        jobs = await nc.subscribe(nc.new_inbox())
        request = json.dumps({"batch": number, "expires": 5_000_000_000}).encode()
        await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.JOBS.{CONSUMER}", request, jobs.subject)
        for _ in range(number):
            job = await jobs.next_msg(5)
            yield job.data
            await nc.request(job.reply, b"+ACK")


async def test_an_unacked_job_comes_back_and_heartbeats_hold_it(
    nats: NatsServer, folder: Path
) -> None:
    file = folder / "consumers" / "inference.json"
    file.write_text(file.read_text().replace('"ack_wait": 2000000000', '"ack_wait": 300000000'))
    async with client(nats) as admin:
        await apply(admin, folder, default_providers())
    async with client(nats, "inference") as nc, open_bus(nats.url("edge"), name="e") as bus:
        await bus.store(JOB, b"work")
        jobs = await nc.subscribe(nc.new_inbox())
        request = json.dumps({"batch": 2, "expires": 10_000_000_000}).encode()
        await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.JOBS.{CONSUMER}", request, jobs.subject)
        first = await jobs.next_msg(5)
        for _ in range(4):
            with pytest.raises(NatsTimeout):
                await jobs.next_msg(0.15)
            await nc.publish(first.reply, b"+WPI")
        again = await jobs.next_msg(5)
        assert (again.data, again.metadata.num_delivered) == (b"work", 2)


async def test_frames_are_republished_with_the_sequence_before(nats: NatsServer) -> None:
    await migrate(nats)
    async with (
        open_bus(nats.url("edge"), name="edge-1") as edge,
        open_bus(nats.url("inference"), name="inference-1") as worker,
    ):
        arrived: asyncio.Queue[Message] = asyncio.Queue()
        await edge.subscribe(subjects.live_of_edge("edge-1"), arrived.put_nowait)
        await edge.nc.flush()
        subject = subjects.frames("edge-1", RUN)
        fence = await worker.store(subject, b"fence", expect_last=0)
        other = await worker.store(subjects.frames("edge-2", RUN), b"other")
        data = await worker.store(subject, b"data", expect_last=fence.seq)
        first = await asyncio.wait_for(arrived.get(), 5)
        second = await asyncio.wait_for(arrived.get(), 5)
        assert (first.subject, first.data) == (f"live.edge-1.{RUN}".encode(), b"fence")
        assert first.header(b"Nats-Sequence") == b"%d" % fence.seq
        assert first.header(b"Nats-Last-Sequence") == b"0"
        assert second.header(b"Nats-Sequence") == b"%d" % data.seq
        assert second.header(b"Nats-Last-Sequence") == b"%d" % fence.seq
        assert other.seq == fence.seq + 1


async def test_a_run_has_one_writer_at_a_time(nats: NatsServer) -> None:
    await migrate(nats)
    async with open_bus(nats.url("inference"), name="inference-1") as worker:
        subject = subjects.frames("edge-1", RUN)
        fence = await worker.store(subject, b"fence", expect_last=0)
        await worker.store(subjects.frames("edge-1", "run_other"), b"elsewhere", expect_last=0)
        with pytest.raises(WrongLastSequence):
            await worker.store(subject, b"second fence", expect_last=0)
        await worker.store(subject, b"data", expect_last=fence.seq)
        with pytest.raises(WrongLastSequence):
            await worker.store(subject, b"zombie", expect_last=fence.seq)
        assert [message.data async for message in worker.read_subject("TOKENS", subject)] == [
            b"fence",
            b"data",
        ]


async def test_what_was_accepted_survives_a_crash_of_the_server(nats: NatsServer) -> None:
    await migrate(nats)
    async with open_bus(nats.url("edge"), name="edge-1") as bus:
        await bus.store(JOB, b"work", msg_id="JOBS:inference:1:0")
    nats.kill()
    nats.start()
    assert [data async for data in pulled(nats, 1)] == [b"work"]


async def test_a_new_key_reaches_the_edges_at_once(nats: NatsServer) -> None:
    await migrate(nats)
    async with (
        open_bus(nats.url("edge"), name="edge-1") as edge,
        open_bus(nats.url("cli"), name="cli") as cli,
    ):
        keys = Bucket(cli, subjects.KV_KEYS)
        await keys.put("old", b"1")
        seen: asyncio.Queue[tuple[str, bytes | None]] = asyncio.Queue()
        await Bucket(edge, subjects.KV_KEYS).watch(
            lambda key, value, _revision: seen.put_nowait((key, value))
        )
        await keys.put("new", b"2")
        await keys.delete("old")
        changes = [await asyncio.wait_for(seen.get(), 5) for _ in range(3)]
        assert changes == [("old", b"1"), ("new", b"2"), ("old", None)]


async def test_an_idempotency_key_is_created_once(nats: NatsServer) -> None:
    await migrate(nats)
    async with open_bus(nats.url("edge"), name="edge-1") as bus:
        subject = f"$KV.{subjects.KV_IDEMPOTENCY}.hash"
        await bus.store(subject, b"run_1", expect_last=0)
        with pytest.raises(WrongLastSequence):
            await bus.store(subject, b"run_2", expect_last=0)


# Users

PUBLISH = {
    "edge": (
        [
            "jobs.inference.remote.interactive",
            "commands.run.delete",
            "query.runs.get",
            "control.cancel.r",
            "events.run.accepted.7",
            "edges.edge-2.alive",
            "$KV.health.edge.edge-1",
            "$KV.idempotency.k",
            "$KV.limits.k",
            "$KV.sessions.k",
            "$JS.API.DIRECT.GET.TOKENS",
            "$JS.API.DIRECT.GET.KV_keys",
            "$JS.API.DIRECT.GET.KV_models",
        ],
        [
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.inference-remote-interactive",
            "$JS.ACK.JOBS.inference-remote-interactive.1.1.1.1.0",
            "$KV.keys.k",
            "$KV.models.catalogue",
            "$KV.health.worker.inference.w",
            "frames.edge-1.r",
            "live.edge-1.r",
            "events.replay.finished.7",
            "events.run.finished.7",
            "events.run.started.7",
            "$JS.API.DIRECT.GET.JOBS",
            "$KV.tools.tool.web_search",
            "$JS.API.CONSUMER.CREATE.KV_keys.c",
            "$JS.API.STREAM.PURGE.JOBS",
            "_INBOX.cli.x",
            "dead.jobs.x",
        ],
    ),
    "inference": (
        [
            "frames.edge-1.r",
            "events.run.started.7",
            "events.replay.finished.7",
            "events.run.finished.7",
            "jobs.inference.remote.background",
            "dead.jobs.x",
            "edges.edge-1.alive",
            "$KV.health.worker.inference.w",
            "$JS.ACK.JOBS.inference-remote-interactive.1.1.1.1.0",
            "$JS.API.DIRECT.GET.TOKENS",
            "$JS.API.DIRECT.GET.CONTROL",
        ],
        [
            "commands.run.delete",
            "control.cancel.r",
            "query.runs.get",
            "events.run.accepted.7",
            "live.edge-1.r",
            "$KV.keys.k",
            "$KV.models.catalogue",
            "$KV.sessions.k",
            "$JS.API.DIRECT.GET.KV_keys",
            "$JS.API.DIRECT.GET.EVENTS",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.persistence-log",
            "$JS.API.CONSUMER.DELETE.JOBS.inference-remote-interactive",
            "$JS.API.CONSUMER.CREATE.TOKENS.c",
            "_INBOX.edge.x",
        ],
    ),
    "responses": (
        [
            "frames.edge-1.r",
            "events.run.accepted.7",
            "events.run.finished.7",
            "jobs.inference.remote.background",
            "jobs.tools.web_search",
            "control.cancel.r",
            "dead.jobs.x",
            "edges.edge-1.alive",
            "$KV.health.worker.responses.w",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.responses-interactive",
            "$JS.ACK.JOBS.responses-background.1.1.1.1.0",
            "$JS.API.DIRECT.GET.TOKENS",
            "$JS.API.DIRECT.GET.KV_tools",
        ],
        [
            "jobs.responses.interactive",
            "commands.run.delete",
            "query.runs.get",
            "words.r",
            "events.tool.finished.7",
            "$KV.tools.tool.web_search",
            "$KV.keys.k",
            "$JS.API.DIRECT.GET.KV_keys",
            "$JS.API.DIRECT.GET.EVENTS",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.inference-remote-interactive",
            "$JS.API.CONSUMER.CREATE.TOKENS.c",
            "_INBOX.edge.x",
        ],
    ),
    "tools": (
        [
            "frames.responses.r",
            "events.tool.started.7",
            "events.tool.finished.7",
            "words.r",
            "dead.jobs.x",
            "$KV.health.worker.tools.w",
            "$KV.tools.tool.web_search",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.tools-mcp",
            "$JS.ACK.JOBS.tools-mcp.1.1.1.1.0",
            "$JS.API.DIRECT.GET.TOKENS",
            "$JS.API.DIRECT.GET.KV_tools",
        ],
        [
            "jobs.tools.mcp",
            "jobs.inference.remote.background",
            "events.run.finished.7",
            "control.cancel.r",
            "$KV.tools.switch.web_search",
            "$KV.keys.k",
            "$JS.API.DIRECT.GET.KV_keys",
            "$JS.API.DIRECT.GET.EVENTS",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.responses-interactive",
            "_INBOX.edge.x",
        ],
    ),
    "persistence": (
        [
            "events.conversation.created.7",
            "dead.events.x",
            "$KV.health.worker.persistence.w",
            "$KV.keys.revoked.p",
            "jobs.inference.remote.background",
            "$JS.API.DIRECT.GET.KV_models",
            "_INBOX.edge.x",
            "$JS.API.CONSUMER.INFO.EVENTS.persistence-log",
            "$JS.ACK.EVENTS.persistence-log.1.1.1.1.0",
            "$JS.API.DIRECT.GET.EVENTS",
            "$JS.API.DIRECT.GET.TOKENS",
            "$JS.API.STREAM.MSG.DELETE.EVENTS",
            "$JS.API.STREAM.PURGE.COMMANDS",
        ],
        [
            "events.replay.finished.7",
            "events.run.finished.7",
            "frames.edge-1.r",
            "jobs.inference.remote.interactive",
            "commands.run.delete",
            "$KV.keys.k",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.inference-remote-interactive",
            "$JS.API.STREAM.MSG.DELETE.JOBS",
            "$JS.API.STREAM.PURGE.EVENTS",
            "_INBOX.inference.x",
        ],
    ),
    "migrate": (
        ["$JS.API.STREAM.INFO.JOBS", "$JS.API.CONSUMER.INFO.JOBS.c", "$KV.models.catalogue"],
        [
            "$JS.API.STREAM.DELETE.JOBS",
            "$JS.API.STREAM.PURGE.JOBS",
            "$JS.API.CONSUMER.DELETE.JOBS.c",
            "$JS.API.STREAM.MSG.GET.JOBS",
            "$JS.API.DIRECT.GET.EVENTS",
            "jobs.inference.remote.interactive",
            "$KV.keys.k",
        ],
    ),
    "cli": (
        [
            "jobs.inference.remote.interactive",
            "events.run.accepted.7",
            "events.run.finished.7",
            "dead.retried.7",
            "query.runs.get",
            "$KV.keys.k",
            "$JS.API.STREAM.INFO.JOBS",
            "$JS.API.CONSUMER.INFO.JOBS.c",
            "$JS.API.DIRECT.GET.EVENTS",
        ],
        [
            "frames.edge-1.r",
            "dead.events.events.run.finished.7",
            "$JS.API.STREAM.MSG.DELETE.DEAD",
            "$JS.API.STREAM.MSG.DELETE.EVENTS",
            "$JS.API.STREAM.PURGE.DEAD",
            "$KV.models.catalogue",
            "$JS.API.STREAM.DELETE.JOBS",
            "$JS.API.CONSUMER.CREATE.JOBS.c",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.c",
        ],
    ),
}
SUBSCRIBE = {
    "edge": (
        ["live.edge-1.>", "live.*.r", "edges.edge-1.alive", "kv.keys.>", "_INBOX.edge.x.*"],
        ["frames.>", "jobs.>", "query.>", "words.*", "_INBOX.>", "_INBOX.cli.>", "events.>"],
    ),
    "inference": (
        ["control.cancel.*", "kv.health.>", "_INBOX.inference.x.*"],
        ["live.>", "kv.keys.>", "edges.*.alive", "_INBOX.edge.>", "query.>", "$KV.keys.>"],
    ),
    "responses": (
        ["control.cancel.*", "words.*", "kv.tools.>", "_INBOX.responses.x.*"],
        ["live.>", "kv.keys.>", "edges.*.alive", "_INBOX.edge.>", "query.>"],
    ),
    "tools": (
        ["control.cancel.*", "kv.tools.>", "_INBOX.tools.x.*"],
        ["live.>", "kv.keys.>", "words.*", "_INBOX.edge.>", "query.>"],
    ),
    "persistence": (
        ["query.runs.get", "_INBOX.persistence.x.*"],
        ["live.>", "commands.>", "kv.keys.>", "_INBOX.edge.>"],
    ),
    "migrate": (["_INBOX.migrate.x.*"], [">", "events.>", "kv.keys.>"]),
    "cli": (["live.*.r", "events.run.*.7", "kv.health.>"], [">", "_INBOX.edge.>", "$JS.>"]),
}


class Watched:
    """A connection that keeps what the server refused it."""

    def __init__(self, nc: Client, refusals: "asyncio.Queue[str]") -> None:
        self.nc = nc
        self._refusals = refusals

    async def refused(self) -> list[str]:
        """All that was refused so far: the server answers in order, so up to one more refusal."""
        await self.nc.publish("nobody.may.publish.this", b"")
        found: list[str] = []
        while (subject := await asyncio.wait_for(self._refusals.get(), 5)) != (
            "nobody.may.publish.this"
        ):
            found.append(subject)
        return found


@asynccontextmanager
async def watched(nats: NatsServer, user: str) -> AsyncIterator[Watched]:
    refusals: asyncio.Queue[str] = asyncio.Queue()

    async def on_error(error: Exception) -> None:
        refusals.put_nowait(str(error).split('"')[1])

    nc = await connect_plainly(nats.url(user), inbox_prefix=f"_INBOX.{user}", error_cb=on_error)
    try:
        yield Watched(nc, refusals)
    finally:
        await nc.close()


@pytest.mark.parametrize("user", USERS)
async def test_a_user_writes_what_it_must_and_nothing_else(nats: NatsServer, user: str) -> None:
    await migrate(nats)
    allowed, denied = PUBLISH[user]
    async with watched(nats, user) as connection:
        for subject in allowed + denied:
            await connection.nc.publish(subject, b"{}")
        assert await connection.refused() == [subject.lower() for subject in denied]


@pytest.mark.parametrize("user", USERS)
async def test_a_user_hears_what_it_must_and_nothing_else(nats: NatsServer, user: str) -> None:
    allowed, denied = SUBSCRIBE[user]
    async with watched(nats, user) as connection:
        for subject in allowed + denied:
            await connection.nc.subscribe(subject)
        assert await connection.refused() == [subject.lower() for subject in denied]


async def test_an_edge_answers_who_asks_whether_it_lives(nats: NatsServer) -> None:
    async with (
        open_bus(nats.url("edge"), name="edge-1") as edge,
        open_bus(nats.url("inference"), name="inference-1") as worker,
    ):
        await answer(edge, subjects.edge_alive("edge-1"))
        assert await worker.ask(subjects.edge_alive("edge-1"), b"runs?") == b"answer: runs?"


async def test_persistence_answers_queries_of_edge_and_operator(nats: NatsServer) -> None:
    async with (
        open_bus(nats.url("persistence"), name="persistence-1") as persistence,
        open_bus(nats.url("edge"), name="edge-1") as edge,
        open_bus(nats.url("cli"), name="cli") as cli,
    ):
        await answer(persistence, "query.runs.get")
        assert await edge.ask("query.runs.get", b"a") == b"answer: a"
        assert await cli.ask("query.runs.get", b"b") == b"answer: b"


async def test_persistence_pulls_the_log_with_faststream(nats: NatsServer) -> None:
    await migrate(nats)
    url = nats.url("persistence")
    broker = NatsBroker(url, logger=None, **connect_options(url, name="persistence-1"))
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    @broker.subscriber(
        "events.run.>",
        stream=JStream("EVENTS", declare=False),
        durable="persistence-log",
        pull_sub=PullSub(batch_size=10),
        ack_policy=AckPolicy.MANUAL,
        inbox_prefix=b"_INBOX.persistence.",
    )
    async def on_event(message: NatsMessage) -> None:
        seen.put_nowait(message.body)
        await message.ack()

    async with broker, open_bus(nats.url("edge"), name="edge-1") as edge:
        await broker.start()
        await edge.store(subjects.run_event("accepted", RUN), b"{}")
        assert await asyncio.wait_for(seen.get(), 5) == b"{}"


async def answer(bus: Bus, subject: str) -> None:
    def on_message(message: Message) -> None:
        bus.publish(message.reply.decode(), b"answer: " + message.data)

    await bus.subscribe(subject, on_message)
    await bus.nc.flush()


@pytest.mark.parametrize("credentials", ["", "edge:wrong@", "nobody:x@"])
async def test_nobody_comes_in_without_a_password(nats: NatsServer, credentials: str) -> None:
    async def on_error(error: Exception) -> None:
        pass

    url = f"nats://{credentials}127.0.0.1:{nats.port}"
    with pytest.raises(Error, match=r"(?i)authorization"):
        await connect_plainly(url, allow_reconnect=False, error_cb=on_error)
