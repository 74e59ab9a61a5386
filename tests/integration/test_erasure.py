"""Legal deletion: of what was deleted, nothing is left in any file; what was used stays counted."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from sqlalchemy import select, text

from bus import Bus, ObjectStore, open_bus, open_store
from edge import exports
from edge.orders import Caller
from edge.stored import Stored
from schemas import frames, ids, subjects, writes
from schemas.api.lists import Paging
from schemas.commands import RunInference, Turn, encode
from schemas.errors import Gone
from schemas.events import encode_run_accepted
from schemas.objects import request_name
from schemas.queries.conversations import AskConversations, AskItems
from schemas.queries.responses import AskResponseContext
from tests.support.nats import NatsServer, migrate
from tests.support.persistence import running_worker
from tests.support.postgres import PostgresServer
from tests.support.runs import finished, new_run, store, tellers
from tests.support.stored import of_edge, stored_item
from tests.support.stored_responses import call_of, response_of, step_of
from workers.persistence.database import open_engine
from workers.persistence.rebuild import PROJECTIONS, Rebuild
from workers.persistence.tables import erasures, run_events, runs, shares

SECRET = "xyzzy-plugh-plover"
CALLER = Caller("user_a", "req_1")
OTHER = Caller("user_b", "req_2")


class Said(NamedTuple):
    """A message of a conversation."""

    id: str
    text: str


@dataclass(frozen=True)
class Place:
    """A server, and ways to it."""

    nats: NatsServer
    postgres: PostgresServer
    url: str
    edge: Bus
    inference: Bus
    cli: Bus
    tools: Bus
    stored: Stored
    data: Path

    @property
    def objects(self) -> ObjectStore:
        """What the worker has as its object store."""
        return open_store(self.data / "objects")

    async def say(self, caller: Caller, words: str) -> str:
        """Make a conversation in which something was said, and a run's answer; return its id."""
        made = msgspec.json.decode(
            await self.stored.command(
                "conversations",
                "create",
                caller,
                writes.CreateConversation(title=words, items=[stored_item(words)]),
            )
        )
        conversation = str(made["id"])
        added = writes.AddItems(conversation, [stored_item(words)])
        await self.stored.command("conversations", "add_items", caller, added)
        await self._run(caller, conversation, words)
        return conversation

    async def _run(self, caller: Caller, conversation: str, words: str) -> None:
        request = {"messages": [words]}
        await self._tell_run(caller, conversation, request, {"said": words})

    async def run_turn(self, caller: Caller, conversation: str, asked: str, told: str) -> None:
        """Tell of a run that went on with a conversation, and wait until that is stored."""
        request = {"messages": [{"role": "user", "content": asked}]}
        answer = {"role": "assistant", "content": told}
        result = {"choices": [{"index": 0, "message": answer, "finish_reason": "stop"}]}
        await self._tell_run(caller, conversation, request, result)
        assert [item.text for item in await self.items(caller, conversation)][-2:] == [asked, told]

    async def _tell_run(
        self, caller: Caller, conversation: str, request: object, result: object
    ) -> None:
        run_id, turn = new_run(), Turn(conversation, "MAIN")
        job = RunInference(
            run_id=run_id,
            kind="chat",
            edge="edge-1",
            principal=caller.principal,
            model="m",
            targets=[],
            created=1000,
            deadline=2000.0,
            request_id="req",
            request=msgspec.Raw(msgspec.json.encode(request)),
            turn=turn,
        )
        told = encode_run_accepted(encode(job), 1000.0)
        await self.edge.store(subjects.run_event("accepted", run_id), told, msg_id=run_id)
        end = finished(run_id, result=msgspec.json.encode(result), turn=turn)
        ack = await self.inference.store(end.subject, end.data, msg_id=f"{run_id}-end")
        await self.stored.positions.advance(caller.principal, ack.seq)

    async def respond(self, caller: Caller, words: str, conversation: str | None = None) -> str:
        """Tell of a response with a step and a call, all of which say it; return its run.

        Its frames are there as well, and a request that was too large for the bus.
        """
        run_id = new_run()
        kept = {"turn": Turn(conversation, "MAIN")} if conversation is not None else {}
        begin, end = response_of(run_id, words, principal=caller.principal, **kept)
        step, call = step_of(run_id, 1, words=words), call_of(run_id, 1, words=words)
        await self.objects.put(request_name(run_id), words.encode())
        await self.objects.put(request_name(ids.derived_id("run_", run_id, 1)), words.encode())
        for part in (run_id, ids.derived_id("run_", run_id, 1)):
            await self._frame(self.inference, "edge-1", part, words)
        await self._frame(self.tools, "responses", ids.derived_id("tool_", run_id, 1), words)
        [*_, last] = await store(
            self.edge, self.inference, [begin, *step, *call, end], others=self.cli
        )
        await self.stored.positions.advance(caller.principal, last)
        assert await self.previous(caller, run_id) == [words, f"re: {words}"]
        return run_id

    async def _frame(self, bus: Bus, edge: str, part: str, words: str) -> None:
        data = frames.encode(frames.DATA, epoch=1, first=0, count=1, data=words.encode())
        await bus.store(subjects.frames(edge, part), data, msg_id=f"frame-{part}")

    async def previous(self, caller: Caller, run_id: str) -> list[str]:
        """What a response would go on from."""
        name = ids.public_id(run_id, "response")
        question = AskResponseContext(principal=caller.principal, previous=name)
        told = msgspec.json.decode(await self.stored.ask("responses", "context", question))
        return [item["content"][0]["text"] for item in told["items"]]

    async def converse(self, caller: Caller, *texts: str) -> str:
        """Make a conversation with a title of its own, and these items; return its id."""
        items = [stored_item(words) for words in texts]
        body = writes.CreateConversation(title="a title", items=items)
        made = await self.stored.command("conversations", "create", caller, body)
        return str(msgspec.json.decode(made)["id"])

    async def items(self, caller: Caller, conversation: str) -> list["Said"]:
        ask = AskItems(
            principal=caller.principal, conversation=conversation, paging=Paging(order="asc")
        )
        told = msgspec.json.decode(await self.stored.ask("conversations", "items", ask))
        return [Said(one["id"], one["content"][0]["text"]) for one in told["data"]]

    async def share(self, caller: Caller, conversation: str) -> None:
        body = writes.CreateShare(conversation, "conversation")
        await self.stored.command("shares", "create", caller, body)

    async def revoke_shares(self, caller: Caller, conversation: str) -> None:
        of_it = select(shares.c.id).where(shares.c.conversation_id == conversation)
        for (share,) in await self.read(of_it):
            await self.stored.command("shares", "revoke", caller, writes.RevokeShare(str(share)))

    async def titles(self, caller: Caller) -> list[str]:
        answer = await self.stored.ask(
            "conversations", "list", AskConversations(principal=caller.principal)
        )
        return [one["title"] for one in msgspec.json.decode(answer)["data"]]

    async def read(self, statement: object) -> list[tuple[object, ...]]:
        engine = open_engine(self.url, pool_size=1)
        try:
            async with engine.connect() as connection:
                return [tuple(row) for row in await connection.execute(statement)]  # type: ignore[call-overload]
        finally:
            await engine.dispose()

    async def until_erased(self, count: int) -> None:
        done = select(erasures.c.entity).where(erasures.c.done_at > erasures.c.asked_at)
        async with asyncio.timeout(30):
            while len(await self.read(done)) < count:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.1)
            while b"xyzzy" in self.queues():  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    def queues(self) -> bytes:
        """What the files of the queues hold; folders may go while they are looked through."""
        found = b""
        for folder, _, names in os.walk(self.nats.folder):
            *_, stream, part = Path(folder).parts
            for name in names if part == "msgs" and stream in ("COMMANDS", "JOBS") else ():
                with suppress(FileNotFoundError):
                    found += Path(folder, name).read_bytes() if name.endswith(".blk") else b""
        return found

    async def clean_up(self) -> None:
        """What PostgreSQL does in time: dead rows go, the log of writes is used again."""
        engine = open_engine(self.url, pool_size=1)
        try:
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(text("VACUUM FULL"))
                for _ in range(3):
                    await connection.execute(text("SELECT pg_switch_wal()"))
                    await connection.execute(text("CHECKPOINT"))
        finally:
            await engine.dispose()


async def keep_no_old_wal(url: str) -> None:
    """Have PostgreSQL remove old files of its log: they would be kept, to be written over.

    Said before anything is written, as it takes a moment until it is heeded.
    """
    engine = open_engine(url, pool_size=1)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text("ALTER SYSTEM SET wal_recycle = off"))
            await connection.execute(text("SELECT pg_reload_conf()"))
            await connection.execute(text("CHECKPOINT"))
    finally:
        await engine.dispose()


def files_with(word: str, *folders: Path) -> list[str]:
    return [
        str(file)
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file() and word.encode() in file.read_bytes()
    ]


@pytest.fixture
async def place(
    nats: NatsServer, own_postgres: PostgresServer, tmp_path: Path
) -> AsyncIterator[Place]:
    await migrate(nats)
    async with (
        own_postgres.database() as url,
        running_worker(nats, url, data=tmp_path / "data"),
        tellers(nats) as (edge, inference),
        open_bus(nats.url("cli"), name="cli") as cli,
        open_bus(nats.url("tools"), name="tools") as tools,
    ):
        await keep_no_old_wal(url)
        stored = of_edge(edge)
        yield Place(nats, own_postgres, url, edge, inference, cli, tools, stored, tmp_path / "data")


async def test_of_a_deleted_conversation_nothing_is_left_in_any_file(place: Place) -> None:
    await place.say(OTHER, "something else")
    conversation = await place.say(CALLER, SECRET)
    assert await place.titles(CALLER) == [SECRET]
    assert files_with(SECRET, place.nats.folder)

    gone = writes.DeleteConversation(conversation)
    await place.stored.command("conversations", "delete", CALLER, gone)
    await place.until_erased(1)
    await place.clean_up()

    assert files_with(SECRET, place.nats.folder, place.postgres.folder) == []
    assert await place.titles(CALLER) == []
    assert await place.titles(OTHER) == ["something else"]
    counted = await place.read(select(runs.c.total_tokens).where(runs.c.principal == "user_a"))
    assert counted == [(7,)], "usage stays counted"


async def test_of_a_deleted_user_nothing_is_left_either(place: Place) -> None:
    await place.say(OTHER, "something else")
    for _ in range(2):
        await place.say(CALLER, SECRET)
    assert len(await place.titles(CALLER)) == 2

    await place.stored.command("users", "delete", CALLER, writes.DeleteUser())
    await place.until_erased(1)
    await place.clean_up()

    assert files_with(SECRET, place.nats.folder, place.postgres.folder) == []
    assert await place.titles(CALLER) == []
    assert await place.titles(OTHER) == ["something else"]
    later = await place.say(CALLER, "back again")
    assert later
    assert await place.titles(CALLER) == ["back again"], "who comes back can begin anew"


async def test_a_user_who_comes_back_can_be_deleted_again(place: Place) -> None:
    for _ in range(2):
        await place.say(CALLER, SECRET)
        assert await place.titles(CALLER) == [SECRET]
        await place.stored.command("users", "delete", CALLER, writes.DeleteUser())
        assert await place.titles(CALLER) == []
        await place.until_erased(1)
    await place.clean_up()
    assert files_with(SECRET, place.nats.folder, place.postgres.folder) == []


async def test_of_a_deleted_item_nothing_is_left_and_of_its_neighbours_everything(
    place: Place,
) -> None:
    conversation = await place.converse(CALLER, "kept", SECRET, "kept too")
    await place.run_turn(CALLER, conversation, f"the question {SECRET}", "the answer, kept as well")
    await place.share(CALLER, conversation)  # a share of its own keeps what it shows until revoked
    for item in [one for one in await place.items(CALLER, conversation) if SECRET in one.text]:
        gone = writes.DeleteItem(conversation, item.id)
        await place.stored.command("conversations", "delete_item", CALLER, gone)
    await place.revoke_shares(CALLER, conversation)
    await place.until_erased(3)
    await place.clean_up()

    assert files_with(SECRET, place.nats.folder, place.postgres.folder) == []
    texts = [item.text for item in await place.items(CALLER, conversation)]
    assert texts == ["kept", "kept too", "the answer, kept as well"]
    counted = await place.read(select(runs.c.total_tokens).where(runs.c.principal == "user_a"))
    assert counted == [(7,)], "usage stays counted"
    compared = await Rebuild(place.url, place.cli, tuple(PROJECTIONS), only_check=True).run()
    assert [table for table in compared if not table.equal] == []


async def test_of_a_conversation_nothing_is_left_though_it_lost_an_item_just_before(
    place: Place,
) -> None:
    conversation = await place.converse(CALLER, f"kept {SECRET} at first", "taken out")
    [_, item] = await place.items(CALLER, conversation)
    out = writes.DeleteItem(conversation, item.id)
    await place.stored.command("conversations", "delete_item", CALLER, out)
    await place.until_erased(1)
    gone = writes.DeleteConversation(conversation)
    await place.stored.command("conversations", "delete", CALLER, gone)
    await place.until_erased(2)
    await place.clean_up()
    assert files_with(SECRET, place.nats.folder, place.postgres.folder) == []


async def delete_response(place: Place, caller: Caller, run_id: str) -> None:
    gone = writes.DeleteResponse(ids.public_id(run_id, "response"))
    await place.stored.command("responses", "delete", caller, gone)


async def test_of_a_deleted_response_nothing_is_left_nor_of_its_steps_and_calls(
    place: Place,
) -> None:
    others = await place.respond(OTHER, "something else")
    run_id = await place.respond(CALLER, SECRET)
    assert files_with(SECRET, place.nats.folder, place.data)

    await delete_response(place, CALLER, run_id)
    await place.until_erased(1)
    await place.clean_up()

    assert files_with(SECRET, place.nats.folder, place.postgres.folder, place.data) == []
    assert await place.previous(OTHER, others) == ["something else", "re: something else"]
    used = select(runs.c.total_tokens).where(runs.c.principal == "user_a", runs.c.parent.is_(None))
    assert await place.read(used) == [(7,)], "usage stays counted"
    compared = await Rebuild(place.url, place.cli, tuple(PROJECTIONS), only_check=True).run()
    assert [table for table in compared if not table.equal] == []


async def test_what_a_part_says_after_its_response_was_erased_goes_too(place: Place) -> None:
    run_id = await place.respond(CALLER, "mine")
    await delete_response(place, CALLER, run_id)
    await place.until_erased(1)
    late = [*step_of(run_id, 2, words=SECRET), *call_of(run_id, 2, words=SECRET)]
    await store(place.edge, place.inference, late, others=place.cli)
    again = select(run_events.c.seq).where(run_events.c.verb.in_(["erased.tool"]))
    async with asyncio.timeout(30):
        while len(await place.read(again)) < 2:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.1)
    await place.until_erased(1)
    await place.clean_up()
    assert files_with(SECRET, place.nats.folder, place.postgres.folder) == []


async def test_a_conversation_keeps_what_it_has_of_a_deleted_response(place: Place) -> None:
    conversation = await place.converse(CALLER)
    run_id = await place.respond(CALLER, SECRET, conversation)
    await delete_response(place, CALLER, run_id)
    await place.until_erased(1)
    texts = [item.text for item in await place.items(CALLER, conversation)]
    assert texts == [SECRET, f"re: {SECRET}"]

    gone = writes.DeleteConversation(conversation)
    await place.stored.command("conversations", "delete", CALLER, gone)
    await place.until_erased(2)
    await place.clean_up()
    assert files_with(SECRET, place.nats.folder, place.postgres.folder, place.data) == []


async def test_of_a_deleted_users_responses_nothing_is_left(place: Place) -> None:
    await place.respond(CALLER, SECRET)
    alone = call_of("", 1, words=SECRET)  # a client's own call
    [*_, last] = await store(place.edge, place.inference, alone, others=place.cli)
    await place.stored.positions.advance(CALLER.principal, last)
    await place.titles(CALLER)
    await place.stored.command("users", "delete", CALLER, writes.DeleteUser())
    await place.until_erased(1)
    await place.clean_up()
    assert files_with(SECRET, place.nats.folder, place.postgres.folder, place.data) == []


async def test_what_a_command_answered_is_gone_with_what_it_made(place: Place) -> None:
    keyed = Caller(CALLER.principal, "req_1", idempotency_key="once")
    conversation = await place.converse(CALLER, "kept")
    added = writes.AddItems(conversation, [stored_item(SECRET)])
    await place.stored.command("conversations", "add_items", keyed, added)
    [_, item] = await place.items(CALLER, conversation)
    gone = writes.DeleteItem(conversation, item.id)
    await place.stored.command("conversations", "delete_item", keyed, gone)
    await place.until_erased(1)
    with pytest.raises(Gone, match="was deleted"):
        await place.stored.command("conversations", "add_items", keyed, added)
    await place.stored.command("conversations", "delete_item", keyed, gone)


async def test_exports_go_with_what_they_hold(place: Place) -> None:
    conversation = await place.say(CALLER, SECRET)
    await place.say(OTHER, "something else")
    for caller in (CALLER, OTHER):
        told = await exports.store(place.objects, place.stored, caller.principal)
        assert told.conversations == 1
    assert files_with(SECRET, place.data)
    gone = writes.DeleteConversation(conversation)
    await place.stored.command("conversations", "delete", CALLER, gone)
    await place.until_erased(1)
    assert files_with(SECRET, place.data) == []
    assert await exports.find(place.objects, OTHER.principal, told.id)


async def test_after_an_erasure_the_log_still_makes_the_same_tables(place: Place) -> None:
    conversation = await place.say(CALLER, SECRET)
    await place.say(CALLER, "kept")
    assert len(await place.titles(CALLER)) == 2
    gone = writes.DeleteConversation(conversation)
    await place.stored.command("conversations", "delete", CALLER, gone)
    await place.until_erased(1)

    compared = await Rebuild(place.url, place.cli, tuple(PROJECTIONS), only_check=True).run()

    assert [table for table in compared if not table.equal] == []
