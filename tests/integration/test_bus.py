"""The bus on a real server: acks, refusals, direct get, buckets, and a server that dies."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from bus import Ack, Bucket, Bus, Message, open_bus
from edge.server import serve
from schemas import subjects
from schemas.errors import (
    BusError,
    BusTimeout,
    BusUnavailable,
    Conflict,
    NoResponders,
    WrongLastSequence,
)
from tests.support.bus_proxy import proxying
from tests.support.edge import edge_settings
from tests.support.nats import NatsServer, migrate

RUN = "run_01jd00000000000000000000aa"
FRAMES = subjects.frames("edge-1", RUN)


@pytest.fixture
async def inference(nats: NatsServer) -> AsyncIterator[Bus]:
    await migrate(nats)
    async with open_bus(nats.url("inference"), name="inference-1") as bus:
        yield bus


@pytest.fixture
async def edge(nats: NatsServer, inference: Bus) -> AsyncIterator[Bus]:
    async with open_bus(nats.url("edge"), name="edge-1") as bus:
        yield bus


@pytest.fixture
async def cli(nats: NatsServer, inference: Bus) -> AsyncIterator[Bus]:
    async with open_bus(nats.url("cli"), name="cli") as bus:
        yield bus


class Acks(list[Ack | BusError]):
    """What came of messages that were sent; it is `done` when there are `count`."""

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        self.done = asyncio.Event()
        self._count = count

    def take(self, ack: Ack | BusError) -> None:
        self.append(ack)
        if len(self) == self._count:
            self.done.set()


async def until(condition: asyncio.Event) -> None:
    await asyncio.wait_for(condition.wait(), 10)


async def test_a_subjects_messages_form_a_chain_that_strangers_cannot_extend(
    inference: Bus,
) -> None:
    first = await inference.store(FRAMES, b"1", expect_last=0)
    second = await inference.store(FRAMES, b"2", expect_last=first.seq)
    assert second.seq > first.seq
    with pytest.raises(WrongLastSequence):
        await inference.store(FRAMES, b"zombie", expect_last=first.seq)
    stored = [m async for m in inference.read_subject(subjects.TOKENS, FRAMES)]
    assert [(m.seq, m.data) for m in stored] == [(first.seq, b"1"), (second.seq, b"2")]


async def test_a_thousand_pipelined_messages_are_acked_and_read_back_in_order(
    inference: Bus, edge: Bus
) -> None:
    acks = Acks(1000)
    for number in range(1000):
        inference.send_stored(FRAMES, b"%d" % number, acks.take)
    await until(acks.done)
    assert [ack.seq for ack in acks if isinstance(ack, Ack)] == sorted(range(1, 1001))
    stored = [m async for m in edge.read_subject(subjects.TOKENS, FRAMES, 11)]
    assert [m.data for m in stored] == [b"%d" % number for number in range(10, 1000)]


async def test_what_is_stored_is_heard_live_with_its_predecessor(inference: Bus, edge: Bus) -> None:
    heard: list[Message] = []
    both = asyncio.Event()

    def on_message(message: Message) -> None:
        heard.append(message)
        if len(heard) == 2:
            both.set()

    await edge.subscribe(subjects.live_of_edge("edge-1"), on_message)
    await edge.nc.flush()
    first = await inference.store(FRAMES, b"one", expect_last=0)
    second = await inference.store(FRAMES, b"two" * 50_000, expect_last=first.seq)
    await until(both)
    assert [m.header(b"Nats-Sequence") for m in heard] == [
        b"%d" % first.seq,
        b"%d" % second.seq,
    ]
    assert heard[1].header(b"Nats-Last-Sequence") == b"%d" % first.seq
    assert heard[1].data == b"two" * 50_000


async def test_a_message_id_makes_a_second_publish_harmless(edge: Bus) -> None:
    subject = subjects.run_event("accepted", RUN)
    first = await edge.store(subject, b"{}", msg_id="EVENTS:run.accepted:x:0")
    again = await edge.store(subject, b"{}", msg_id="EVENTS:run.accepted:x:0")
    assert (again.seq, again.duplicate) == (first.seq, True)


async def test_reading_what_is_not_there_finds_nothing(edge: Bus) -> None:
    assert await edge.last_message(subjects.TOKENS, subjects.frames_anywhere(RUN)) is None
    assert [m async for m in edge.read_subject(subjects.TOKENS, FRAMES)] == []


async def test_a_question_that_nobody_answers_is_told_so(edge: Bus, nats: NatsServer) -> None:
    with pytest.raises(NoResponders):
        await edge.ask("query.runs.get", b"?")
    nats.freeze()
    with pytest.raises(BusTimeout):
        await edge.ask("query.runs.get", b"?", timeout=0.3)
    nats.thaw()


async def test_a_publish_with_an_id_survives_the_servers_restart(
    nats: NatsServer, edge: Bus
) -> None:
    lost = asyncio.Event()
    edge.on_disconnect(lost.set)
    nats.kill()
    await until(lost)
    with pytest.raises(BusUnavailable):
        await edge.store("commands.run.test", b"{}", msg_id="a", timeout=0.2)
    storing = asyncio.create_task(edge.store("commands.run.test", b"{}", msg_id="b", timeout=20))
    nats.start()
    assert (await storing).duplicate is False


async def test_an_outage_is_two_lines_in_the_log_however_long_it_lasts(
    nats: NatsServer, edge: Bus
) -> None:
    lost, back = asyncio.Event(), asyncio.Event()
    edge.on_disconnect(lost.set)
    edge.on_reconnect(back.set)
    with capture_logs() as logs:
        nats.kill()
        await until(lost)
        with pytest.raises(BusUnavailable):  # some tries to reach it later
            await edge.store("commands.run.test", b"{}", msg_id="a", timeout=0.5)
        nats.start()
        await until(back)
    seen = [line["event"] for line in logs if line.get("connection") == "edge-1"]
    assert seen == ["the bus is away", "the bus is back"]
    assert not [line for line in logs if line["event"] == "nats" and line["log_level"] != "debug"]


async def test_an_unacked_message_is_told_to_have_an_unknown_outcome(
    nats: NatsServer, inference: Bus
) -> None:
    acks = Acks()
    nats.freeze()
    inference.send_stored(FRAMES, b"?", acks.take, timeout=0.3)
    await until(acks.done)
    nats.thaw()
    await inference.nc.flush()
    assert isinstance(acks[0], BusTimeout)
    assert len(acks) == 1  # the late ack is not told a second time


async def test_an_answer_that_came_while_the_process_stood_still_is_believed(
    inference: Bus,
) -> None:
    acks = Acks()
    inference.send_stored(FRAMES, b"?", acks.take, timeout=0.5)
    await asyncio.sleep(0)  # it is written at the end of the loop's turn
    time.sleep(1.0)  # noqa: ASYNC251 - the whole loop stands still, as in a frozen process
    await until(acks.done)
    assert isinstance(acks[0], Ack)


async def test_a_watch_hears_every_change_also_those_of_an_outage(
    nats: NatsServer, edge: Bus, cli: Bus
) -> None:
    state: dict[str, bytes] = {}
    changed = asyncio.Event()

    def on_change(key: str, value: bytes | None, revision: int) -> None:
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value
        changed.set()

    async def settle(expected: dict[str, bytes]) -> None:
        while state != expected:
            changed.clear()
            await until(changed)

    keys = Bucket(cli, subjects.KV_KEYS)
    await keys.put("old", b"1")
    await Bucket(edge, subjects.KV_KEYS).watch(on_change)
    assert state == {"old": b"1"}
    await keys.put("new", b"2")
    await keys.delete("old")
    await settle({"new": b"2"})
    nats.kill()
    nats.start()
    await keys_put_after_restart(keys)
    await settle({"new": b"2", "later": b"3"})


async def keys_put_after_restart(keys: Bucket) -> None:
    """Put as soon as the server takes it: a put is not repeated by itself."""
    async with asyncio.timeout(30):
        while True:
            try:
                await keys.put("later", b"3")
                return
            except BusError:
                await asyncio.sleep(0.05)


async def test_only_one_of_two_creates_or_updates_wins(cli: Bus) -> None:
    keys = Bucket(cli, subjects.KV_KEYS)
    revision = await keys.create("k", b"1")
    with pytest.raises(Conflict):
        await keys.create("k", b"2")
    newer = await keys.update("k", b"3", revision)
    with pytest.raises(Conflict):
        await keys.update("k", b"4", revision)
    entry = await keys.get("k")
    assert entry is not None
    assert (entry.value, entry.revision) == (b"3", newer)
    await keys.delete("k")
    assert await keys.get("k") is None
    await keys.create("k", b"5")


async def test_a_message_that_is_too_large_fails_alone(inference: Bus) -> None:
    large = bytes(inference.nc.max_payload)
    with pytest.raises(BusError, match="larger than the bus takes"):
        await inference.store(FRAMES, large, expect_last=0)
    with pytest.raises(BusError, match="too large"):
        await inference.ask("anything", large + b"x")
    inference.publish("anything", large + b"x")
    assert (await inference.store(FRAMES, b"1", expect_last=0)).seq


async def test_a_connection_that_the_server_ends_is_told_of_once(
    nats: NatsServer, inference: Bus
) -> None:
    told: list[BusUnavailable] = []
    ended = asyncio.Event()

    def on_closed(error: BusUnavailable) -> None:
        told.append(error)
        ended.set()

    inference.on_closed(on_closed)
    inference.on_closed(on_closed)()  # and stop that
    inference.nc._transport.write(b"NONSENSE\r\n")
    await until(ended)
    assert inference.closed
    with pytest.raises(BusTimeout):
        await inference.store(FRAMES, b"1", timeout=1)
    assert [error.message for error in told] == [
        "the bus has ended the connection: nats: unknown protocol operation"
    ]


async def test_a_connection_that_we_close_is_told_to_nobody(nats: NatsServer) -> None:
    told: list[BusUnavailable] = []
    async with open_bus(nats.url("edge"), name="edge-1") as bus:
        bus.on_closed(told.append)
    assert bus.closed
    assert told == []


async def test_an_edge_that_the_bus_hangs_up_on_ends_with_that(
    nats: NatsServer, inference: Bus, tmp_path: Path
) -> None:
    with proxying(nats.port) as proxy:
        url = nats.url("edge").replace(f":{nats.port}", f":{proxy.port}")
        settings = edge_settings(nats, tmp_path).model_copy(update={"nats_url": SecretStr(url)})
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(settings, on_ready=port.set_result))
        await asyncio.wait_for(port, 20)
        proxy.garble("edge-1")
        with pytest.raises(BusUnavailable, match="has ended the connection"):
            await asyncio.wait_for(serving, 20)
