"""Titles that a model makes, with a real worker: beside other work, and never over one's own."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from bus import Bus, open_bus
from edge.orders import Caller
from edge.stored import Stored
from schemas import subjects, writes
from schemas.commands import Turn
from schemas.errors import Conflict
from schemas.queries.conversations import AskConversation
from schemas.queries.runs import AskRuns, RunList
from tests.support.inference import MODEL, simulated
from tests.support.inference import running_worker as running_inference
from tests.support.nats import migrate, running_nats
from tests.support.persistence import running_worker
from tests.support.postgres import PostgresServer
from tests.support.runs import accepted, finished, new_run
from tests.support.stored import of_edge
from workers.persistence.titles import MAX_WORDS

CALLER = Caller("user_a", "req_1")


@dataclass(frozen=True)
class Place:
    """A server whose titles are made by the simulated model."""

    edge: Bus
    inference: Bus
    cli: Bus
    stored: Stored

    async def create(self) -> str:
        made = await self.stored.command(
            "conversations", "create", CALLER, writes.CreateConversation()
        )
        return str(msgspec.json.decode(made)["id"])

    async def say(self, conversation: str, text: str) -> None:
        """Tell of a run that went on with a conversation."""
        run_id, turn = new_run(), Turn(conversation, "MAIN")
        request = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        answer = {"role": "assistant", "content": "Herons stand and wait."}
        result = {"choices": [{"index": 0, "message": answer, "finish_reason": "stop"}]}
        begin = accepted(run_id, turn=turn, request=msgspec.json.encode(request))
        end = finished(run_id, turn=turn, result=msgspec.json.encode(result))
        await self.edge.store(begin.subject, begin.data, msg_id=run_id)
        ack = await self.inference.store(end.subject, end.data, msg_id=f"{run_id}-end")
        await self.stored.positions.advance(CALLER.principal, ack.seq)

    async def title(self, conversation: str) -> str | None:
        ask = AskConversation(principal=CALLER.principal, id=conversation)
        told = msgspec.json.decode(await self.stored.ask("conversations", "get", ask))
        assert told["title_locked"] is False
        title: str | None = told["title"]
        return title

    async def until_titled(self, conversation: str, words: str) -> str:
        """Wait until a conversation is called otherwise than by the first words."""
        async with asyncio.timeout(20):
            while True:
                title = await self.title(conversation)
                if title not in (None, words):
                    assert title is not None
                    return title
                await asyncio.sleep(0.05)

    async def until_asked(self) -> None:
        """Wait until the model has been asked, whatever came of it."""
        async with asyncio.timeout(20):
            while not await self.replays():  # noqa: ASYNC110 - each look is a round trip
                await asyncio.sleep(0.05)

    async def replays(self) -> int:
        """How many jobs were told of as replays are."""
        log = self.cli.read_subject(subjects.EVENTS, "events.replay.finished.*")
        return len([one async for one in log])


@pytest.fixture
async def place(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Place]:
    with running_nats(tmp_path / "nats") as nats:
        await migrate(nats, simulated())
        async with (
            postgres.database() as url,
            running_inference(nats, data=tmp_path),
            running_worker(nats, url, title_model=MODEL),
            open_bus(nats.url("edge"), name="edge") as edge,
            open_bus(nats.url("inference"), name="told") as inference,
            open_bus(nats.url("cli"), name="cli") as cli,
        ):
            yield Place(edge, inference, cli, of_edge(edge))


@pytest.mark.requirement("turns.title.model")
async def test_a_model_gives_a_title_that_nobody_pays_for(place: Place) -> None:
    conversation = await place.create()
    await place.say(conversation, "Tell me of herons")
    title = await place.until_titled(conversation, "Tell me of herons")
    assert 0 < len(title.split()) <= MAX_WORDS
    told = await place.stored.ask("runs", "list", AskRuns(principal=CALLER.principal))
    assert len(msgspec.json.decode(told, type=RunList).runs) == 1, "only what was asked for"
    assert await place.replays() == 1


@pytest.mark.requirement("turns.title.model")
async def test_a_model_is_asked_no_more_often_than_first_words_are_taken(place: Place) -> None:
    conversation = await place.create()
    await place.say(conversation, "One")
    first = await place.until_titled(conversation, "One")
    for text in ("Two", "Three", "Four"):
        await place.say(conversation, text)
        assert await place.title(conversation) == first
    await place.say(conversation, "Five")
    assert await place.until_titled(conversation, "Five")
    assert await place.replays() == 2


@pytest.mark.requirement("turns.title.model")
async def test_a_model_that_fails_leaves_the_first_words(place: Place) -> None:
    failed, titled = await place.create(), await place.create()
    await place.say(failed, "Not this one\n!fail 500")
    await place.until_asked()
    await place.say(titled, "But this one")
    await place.until_titled(titled, "But this one")
    assert await place.title(failed) == "Not this one"


@pytest.mark.requirement("turns.title.model")
async def test_a_title_that_was_given_meanwhile_wins(place: Place) -> None:
    conversation = await place.create()
    by_hand = writes.UpdateConversation(id=conversation, title="Mine")
    await place.stored.command("conversations", "update", CALLER, by_hand)
    late = writes.Retitle(conversation, "a model's", None)
    for body in (late, msgspec.structs.replace(late, instead_of="Mine")):
        with pytest.raises(Conflict):
            await place.stored.command("conversations", "retitle", CALLER, body)
    taken_back = writes.UpdateConversation(id=conversation, title=None)
    await place.stored.command("conversations", "update", CALLER, taken_back)
    await place.stored.command("conversations", "retitle", CALLER, late)
    assert await place.title(conversation) == "a model's"


@pytest.mark.requirement("turns.title.model")
async def test_what_is_renamed_while_the_model_thinks_stays(place: Place) -> None:
    conversation = await place.create()
    await place.say(conversation, "Think first\n!ttft 1500")
    began = time.monotonic()
    assert await place.title(conversation) == "Think first"
    by_hand = writes.UpdateConversation(id=conversation, title="Mine")
    await place.stored.command("conversations", "update", CALLER, by_hand)
    assert time.monotonic() - began < 1.5
    await place.until_asked()
    other = await place.create()
    await place.say(other, "After it")
    await place.until_titled(other, "After it")
    ask = AskConversation(principal=CALLER.principal, id=conversation)
    told = msgspec.json.decode(await place.stored.ask("conversations", "get", ask))
    assert (told["title"], told["title_locked"]) == ("Mine", True)
