"""`jan log` of several runs on a real bus and database: lists, conversations, traces."""

import argparse
import asyncio
import itertools
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from bus import Bus, open_bus
from cli.exits import BadSetup, Exit
from schemas import ids, subjects
from schemas.commands import Command, Turn, encode
from schemas.queries.entities import AskEntity
from schemas.queries.runs import AskRun
from schemas.writes import AddItems, CreateConversation
from tests.support.log import Told, show
from tests.support.nats import NatsServer, migrate
from tests.support.persistence import running_worker
from tests.support.postgres import PostgresServer
from tests.support.runs import accepted, finished, new_run, refused, started, store, tellers
from tests.support.stored_responses import call_of, step_of

pytestmark = pytest.mark.usefixtures("jan_finds_nats")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
ERROR = b'{"error":{"message":"it broke","code":"upstream_error"}}'


@dataclass(frozen=True)
class Place:
    """The other processes' connections."""

    edge: Bus
    inference: Bus

    async def run(self, *, fails: bool = False, ends: bool = True, **about: Any) -> str:
        """A run that has just happened; returns its id once it can be asked for."""
        run_id, at = new_run(), time.time()
        await store(self.edge, self.inference, [accepted(run_id, at=at, **about)])
        await store(self.edge, self.inference, [started(run_id, at=at + 0.1)])
        await self.known(run_id, "running")
        if ends:
            await self.end(run_id, at + 1.5, fails=fails)
        return run_id

    async def end(self, run_id: str, at: float, *, fails: bool = False) -> None:
        end = finished(run_id, at=at)
        if fails:
            end = finished(run_id, at=at, status="failed", usage=None, error=ERROR, result=None)
        await store(self.edge, self.inference, [end])
        await self.known(run_id, "failed" if fails else "completed")

    async def known(self, run_id: str, status: str) -> None:
        """Wait until the database has a run's status."""
        question, wanted = encode(AskRun(run_id=run_id)), b'"%b"' % status.encode()
        await self._until(subjects.query("runs", "get"), question, wanted)

    async def _until(self, subject: str, question: bytes, wanted: bytes) -> None:
        async with asyncio.timeout(30):
            while wanted not in await self.edge.ask(subject, question):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def write(self, verb: str, body: msgspec.Struct) -> dict[str, Any]:
        """Carry a command out; returns its answer."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def on_word(message: Any) -> bool:
            if message is not None and message.data == b"+":
                return False
            answer.set_result(message.data)
            return True

        now = time.time()
        command = Command(
            id=ids.new_id("cmd_"),
            principal="user_a",
            at=now,
            deadline=now + 5,
            body=msgspec.Raw(encode(body)),
            reply_to=self.edge.expect(on_word, 5.0),
            request_id="req_7",
        )
        await self.edge.store(subjects.command("conversations", verb), encode(command))
        reply = json.loads(await answer)
        question = encode(
            AskEntity(entity=reply["answer"].get("id", getattr(body, "conversation", "")))
        )
        told = b'"seq":%d,' % reply["seq"]
        await self._until(subjects.query("entities", "events"), question, told)
        return dict(reply["answer"])


@pytest.fixture
async def place(nats: NatsServer, postgres: PostgresServer) -> AsyncIterator[Place]:
    await migrate(nats)
    async with (
        tellers(nats) as (edge, inference),
        postgres.database() as url,
        running_worker(nats, url),
    ):
        yield Place(edge, inference)


def listed(told: Told) -> list[str]:
    """The ids of the runs that were printed."""
    found = [json.loads(line)["run_id"] for line in told.look() if line.startswith("{")]
    told.lines.clear()
    return found


async def test_runs_are_listed_the_newest_last_and_filtered(place: Place, told: Told) -> None:
    runs = [
        await place.run(),
        await place.run(fails=True, principal="user_b"),
        await place.run(kind="embedding"),
        await place.run(model="n"),
    ]
    for options, found in (
        ([], runs),
        (["--limit", "2"], runs[2:]),
        (["--failed"], runs[1:2]),
        (["--principal", "user_b"], runs[1:2]),
        (["--principal", "user_c"], []),
        (["--kind", "embedding"], runs[2:3]),
        (["--model", "n", "--since", "10m"], runs[3:]),
        (["--since", "2099-01-01T10:00"], []),
        (["--since", datetime.now(UTC).date().isoformat()], runs),
    ):
        assert await show(*options) == 0
        assert listed(told) == found, options


async def test_a_run_is_one_line_that_says_how_it_went(place: Place, told: Told) -> None:
    good, bad = await place.run(), await place.run(fails=True)
    queued = new_run()
    await store(place.edge, place.inference, [accepted(queued, at=time.time())])
    await store(place.edge, place.edge, [refused(queued, at=time.time())])
    await place.known(queued, "refused")
    assert await show(as_json=False) == 0
    one, two, three = (line for line in told.look() if "run_" in line)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  run_", one)
    assert one.split()[2:] == [good, "user_a", "m", "completed", "7", "tokens", "1.50", "s"]
    assert two.split()[2:] == [bad, "user_a", "m", "failed", "1.50", "s", "upstream_error"]
    assert three.split()[2:] == [queued, "user_a", "m", "refused"]
    assert await show("--failed") == 0
    assert listed(told) == [bad, queued]


async def test_a_followed_list_goes_on_with_each_run_that_ends(place: Place, told: Told) -> None:
    before = await place.run()
    begun = await place.run(ends=False)
    following = asyncio.create_task(show("--model", "m", follow=True))
    seen: list[str] = []

    async def until(run_id: str) -> None:
        async with asyncio.timeout(30):
            while run_id not in seen:
                seen.extend(listed(told))
                await asyncio.sleep(0.02)

    await until(before)
    assert seen == [before, begun], "what there was"
    await place.end(begun, time.time() + 2)
    await place.run(model="n")
    after = await place.run(fails=True)
    await until(after)
    following.cancel()
    assert seen == [before, begun, begun, after]


async def test_a_conversation_is_told_with_its_runs_in_the_order_of_time(
    place: Place, told: Told
) -> None:
    made = await place.write("create", CreateConversation(title="t"))
    conversation = made["id"]
    turn = Turn(conversation, "MAIN")
    one = await place.run(turn=turn)
    await place.run()
    two = await place.run(turn=turn, fails=True)
    item = b'{"type":"message","role":"user","content":[{"type":"input_text","text":"x"}]}'
    await place.write("add_items", AddItems(conversation, [msgspec.Raw(item)]))

    assert await show(conversation) == 0
    facts = [json.loads(line) for line in told.look() if line.startswith("{")]
    assert [fact["at"] for fact in facts] == sorted(fact["at"] for fact in facts)
    assert {fact["run_id"] for fact in facts if fact.get("run_id")} == {one, two}
    changes = [fact for fact in facts if fact.get("entity")]
    assert [fact["what"].split(".")[0] for fact in changes] == ["conversation", "conversation"]
    assert changes[0]["principal"] == "user_a"
    assert changes[1]["rows"]["conversation_items"] == 1
    assert {fact["what"] for fact in facts if fact.get("run_id") == one} == {
        *("accepted", "queued", "picked", "completed", "frames")
    }

    assert await show(conversation, as_json=False) == 0
    text = "\n".join(told.look())
    assert f"{conversation} · 2 runs" in text
    assert f"#2  {two} · chat · m · failed" in text
    assert re.search(r"#2 failed +upstream_error: it broke", text)


async def test_a_trace_is_told_by_its_id_or_a_traceparent(place: Place, told: Told) -> None:
    runs = [await place.run(traceparent=TRACEPARENT) for _ in range(2)]
    await place.run()
    for given in (TRACE, TRACEPARENT, TRACE.upper()):
        assert await show(given) == 0
        facts = [json.loads(line) for line in told.look() if line.startswith("{")]
        assert {fact["run_id"] for fact in facts} == set(runs)
        told.lines.clear()


@pytest.mark.requirement("log.response")
async def test_each_response_of_several_runs_is_a_tree(
    place: Place, nats: NatsServer, told: Told
) -> None:
    made = await place.write("create", CreateConversation(title="t"))
    about = {"turn": Turn(made["id"], "MAIN"), "traceparent": TRACEPARENT}
    chat = await place.run(**about)
    run_id, at = new_run(), time.time()
    begin = accepted(run_id, at=at, kind="response", **about)
    parts = [step_of(run_id, 1, at=at), call_of(run_id, 1, at=at + 0.3)]
    parts += [step_of(run_id, 2, at=at + 0.5)]
    end = finished(run_id, at=at + 2, turn=about["turn"])
    async with open_bus(nats.url("cli"), name="cli") as others:
        facts = [begin, *itertools.chain.from_iterable(parts), end]
        await store(place.edge, place.inference, facts, others=others)
    await place.known(run_id, "completed")
    last = await place.run(**about)

    for given in (made["id"], TRACE):
        told.lines.clear()
        assert await show(given, as_json=False) == 0
        first, second, *tree, third, blank = told.look()[1:8]
        assert first.startswith(f"#1  {chat} · chat")
        assert second.startswith(f"#2  {run_id} · response")
        assert [line.split()[0] for line in tree] == ["├─", "├─", "└─"]
        kinds = [re.search(r"s  (step|call)  ", line) for line in tree]
        assert [kind and kind[1] for kind in kinds] == ["step", "call", "step"]
        assert all(line.startswith("    ") for line in tree)
        assert third.startswith(f"#3  {last} · chat")
        assert not blank

        told.lines.clear()
        assert await show(given) == 0
        lines = [json.loads(line) for line in told.look() if line.startswith("{")]
        assert [fact["at"] for fact in lines] == sorted(fact["at"] for fact in lines)
        found = [fact for fact in lines if fact["what"] in ("step", "call")]
        assert [fact["what"] for fact in found] == ["step", "call", "step"]
        assert {fact["run_id"] for fact in found} == {run_id}
        assert found[0]["id"] == ids.derived_id("run_", run_id, 1)


async def test_what_looks_like_a_trace_may_be_a_request(place: Place, told: Told) -> None:
    run_id = await place.run(request_id=TRACE)
    assert await show(TRACE) == 0
    assert set(listed(told)) == {run_id}


async def test_what_is_not_known_is_said(place: Place) -> None:
    for given in ("conv_01arz3ndektsv4rrffq69g5fav", TRACE):
        with pytest.raises(Exit, match=f"nothing is known of {given}") as unknown:
            await show(given)
        assert unknown.value.code == 1


async def test_without_the_database_lists_say_what_is_missing(nats: NatsServer) -> None:
    await migrate(nats)
    with pytest.raises(Exit, match="runs are looked up in the database"):
        await show()
    with pytest.raises(Exit, match="looked up in the database"):
        await show("conv_1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run_01arz3ndektsv4rrffq69g5fav", "--failed"], "--failed goes with a list"),
        (["run_01arz3ndektsv4rrffq69g5fav", "--limit", "3"], "--limit goes with a list"),
        (["conv_1", "--follow"], "--follow goes with one run"),
        (["--limit", "0"], "--limit is 1 or more"),
        (["conv_"], "is not an id"),
    ],
)
async def test_options_that_say_nothing_together_are_refused(
    arguments: list[str], message: str
) -> None:
    with pytest.raises(BadSetup, match=message):
        await show(*arguments)


@pytest.mark.parametrize("moment", ["yesterday", "10", "5x", ""])
async def test_a_time_that_is_none_is_refused(moment: str) -> None:
    with pytest.raises(argparse.ArgumentError, match="is no time"):
        await show("--since", moment)
