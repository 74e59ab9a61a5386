"""What runs generate is stored exactly once, whoever is told of it, how often, and what crashes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from schemas import subjects, writes
from schemas.commands import Turn, encode
from schemas.errors import BusUnavailable
from schemas.queries.conversations import AskContext
from tests.support.nats import NatsServer
from tests.support.postgres import PostgresServer
from tests.support.projection import PRINCIPAL, Place, open_place
from tests.support.runs import Told, accepted, finished, new_run
from workers.persistence.facts import Fact
from workers.persistence.projector import Projector
from workers.persistence.queries.turns import get_context
from workers.persistence.tables import conversations, runs, stored_completions


@pytest.fixture
async def place(
    shared_nats: NatsServer, postgres: PostgresServer, tmp_path: Path
) -> AsyncIterator[Place]:
    async with open_place(shared_nats, postgres, tmp_path) as opened:
        yield opened


async def no_floor() -> int:
    return 0


def turn_of(conversation: str, text: str, run_id: str, **about: Any) -> tuple[Told, Told]:
    """A run's two facts: it was asked `text` and answered it back."""
    request = encode({"model": "m", "messages": [{"role": "user", "content": text}]})
    message = {"role": "assistant", "content": f"re: {text}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    result = encode({"id": "x", "object": "chat.completion", "choices": [choice]})
    kept: dict[str, Any] = {"turn": Turn(conversation, "MAIN")} | about
    return (
        accepted(run_id, principal=PRINCIPAL, request=request, **kept),
        finished(run_id, result=result, **kept),
    )


async def test_a_turn_is_stored_once_however_its_facts_are_delivered(place: Place) -> None:
    conversation = await place.converse()
    asked = [turn_of(conversation, str(number), new_run(), store=True) for number in range(6)]
    begins = await place.tell(*[begin for begin, _ in asked])
    ends = await place.tell(*[end for _, end in asked])

    await place.one.take([*begins[:3], ends[0]])  # the other begins only the log knows
    await asyncio.gather(place.one.take(ends[:4]), place.two.take(ends[2:]))
    await asyncio.gather(place.two.take(begins + ends), place.one.take(ends[::-1]))
    await place.one.take(ends)

    kept = await place.items(conversation)
    assert [position for position, _, _ in kept] == list(range(12))
    pairs = list(zip(kept[::2], kept[1::2], strict=True))
    assert sorted(question[2] for question, _ in pairs) == list("012345")
    for question, answer in pairs:
        assert (question[1], answer[1:]) == ("user", ("assistant", f"re: {question[2]}"))
    assert await place.told(conversation) == 6
    async with place.one.engine.connect() as connection:
        versions = list(await connection.scalars(select(stored_completions.c.version)))
        changed = await connection.scalar(
            select(conversations.c.version).where(conversations.c.id == conversation)
        )
    assert (versions, changed) == ([1] * 6, 7)


async def test_turns_of_one_batch_are_in_the_order_of_the_log(place: Place) -> None:
    conversation = await place.converse()
    told = [fact for text in "abc" for fact in turn_of(conversation, text, new_run())]
    await place.one.take(await place.tell(*told))
    said = [text for _, role, text in await place.items(conversation) if role == "user"]
    assert said == ["a", "b", "c"]


async def test_what_was_committed_but_not_told_is_told_later(place: Place) -> None:
    conversation = await place.converse()
    facts = await place.tell(*turn_of(conversation, "hello", new_run()))
    place.one.dies = True
    with pytest.raises(BusUnavailable):
        await place.one.take(facts)
    assert await place.told(conversation) == 0

    await place.two.take(facts)
    await place.two.take(facts)
    assert await place.told(conversation) == 1
    assert len(await place.items(conversation)) == 2


async def test_what_comes_back_from_the_log_changes_nothing(place: Place) -> None:
    conversation = await place.converse()
    await place.one.take(await place.tell(*turn_of(conversation, "hello", new_run())))
    before = await place.items(conversation)
    subject = subjects.state_event("conversation", "turn_added", conversation)
    found = [stored async for stored in place.cli.read_subject(subjects.EVENTS, subject)]
    await place.two.take([Fact(told.seq, told.subject, told.data, told.time) for told in found])
    assert await place.items(conversation) == before


async def test_nothing_is_decided_on_what_was_imported_or_is_only_projected(place: Place) -> None:
    conversation = await place.converse()
    facts = await place.tell(*turn_of(conversation, "hello", new_run()))
    await place.one.take([fact._replace(imported=True) for fact in facts])

    async def nothing() -> None: ...

    await Projector(place.one.database, no_floor).project(facts, nothing)
    assert await place.items(conversation) == []


async def test_nothing_is_stored_in_what_is_gone_or_somebody_elses(place: Place) -> None:
    gone, foreign = await place.converse(), await place.converse()
    begin, end = turn_of(gone, "hello", new_run())
    await place.command("conversations.delete", writes.DeleteConversation(gone))
    await place.one.take(await place.tell(begin, end))
    run_id = new_run()
    stranger = accepted(run_id, principal="user_b", turn=Turn(foreign, "MAIN"))
    await place.one.take(await place.tell(stranger, turn_of(foreign, "mine", run_id)[1]))
    await place.one.take(
        await place.tell(*turn_of(foreign, "x", new_run(), turn=Turn(foreign, "no-branch")))
    )
    assert await place.items(gone) == await place.items(foreign) == []
    assert await place.told(gone) == await place.told(foreign) == 0


async def test_a_large_request_is_read_from_the_object_store(place: Place) -> None:
    conversation = await place.converse()
    run_id = new_run()
    text = "x" * (1 << 20)
    request = encode({"model": "m", "messages": [{"role": "user", "content": text}]})
    await place.objects.put(f"requests/{run_id}", request)
    kept: dict[str, Any] = {"turn": Turn(conversation, "MAIN")}
    begin = accepted(run_id, principal=PRINCIPAL, **kept)
    told = msgspec.json.decode(begin.data)
    told["command"] |= {"request_ref": f"requests/{run_id}"}
    del told["command"]["request"]
    by_reference = Told(begin.subject, encode(told))
    await place.one.take(await place.tell(by_reference, turn_of(conversation, "", run_id)[1]))
    assert (await place.items(conversation))[0][2] == text


@pytest.mark.parametrize("result", [b"[]", b"7", b'{"choices":7}', b'{"choices":[{"message":[]}]}'])
async def test_an_answer_that_is_none_blocks_nothing(place: Place, result: bytes) -> None:
    conversation = await place.converse()
    run_id = new_run()
    begin, _ = turn_of(conversation, "odd", run_id)
    odd = finished(run_id, result=result, turn=Turn(conversation, "MAIN"))
    await place.one.take(await place.tell(begin, odd, *turn_of(conversation, "next", new_run())))
    texts = [text for _, _, text in await place.items(conversation)]
    assert texts[-2:] == ["next", "re: next"]


async def test_an_answer_that_the_database_refuses_leaves_its_run_and_the_others(
    place: Place,
) -> None:
    """What was used is counted, and the fact can be tried again: it is told as unusable."""
    conversation = await place.converse()
    run_id = new_run()
    begin, end = turn_of(conversation, "odd", run_id, turn=Turn(conversation, "\0"))
    facts = await place.tell(begin, end, *turn_of(conversation, "next", new_run()))

    async def nothing() -> None: ...

    [(refused, _)] = await place.one.projector.project(facts, nothing)
    assert refused == facts[1]
    assert [text for _, _, text in await place.items(conversation)] == ["next", "re: next"]
    async with place.one.engine.connect() as connection:
        statuses = list(await connection.scalars(select(runs.c.status)))
    assert statuses == ["completed"] * 2


@pytest.mark.parametrize("call_id", [{"a": 1}, "\0", 7, None, "x" * 60_000])
async def test_a_call_of_any_id_is_stored(place: Place, call_id: object) -> None:
    conversation = await place.converse()
    run_id = new_run()
    call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    choice = {"message": {"role": "assistant", "tool_calls": [call]}, "finish_reason": "tool_calls"}
    begin, _ = turn_of(conversation, "call", run_id)
    end = finished(run_id, result=encode({"choices": [choice]}), turn=Turn(conversation, "MAIN"))
    await place.one.take(await place.tell(begin, end))
    assert len(await place.items(conversation)) == 2


async def test_what_nobody_can_read_of_an_answer_keeps_nothing_else_out(place: Place) -> None:
    conversation = await place.converse()
    run_id = new_run()
    begin, _ = turn_of(conversation, "asked", run_id)
    odd = finished(run_id, result=b'{"choices":[1e999]}', turn=Turn(conversation, "MAIN"))
    await place.one.take(await place.tell(begin, odd))
    assert await place.items(conversation) == [(0, "user", "asked")]


async def test_a_history_is_cut_to_whole_turns(place: Place) -> None:
    conversation = await place.converse()
    for number in range(5):
        facts = turn_of(conversation, f"{number}" + "x" * 1_000_000, new_run())
        await place.one.take(await place.tell(*facts))
    async with place.one.engine.connect() as connection:
        context = await get_context(
            connection, AskContext(principal=PRINCIPAL, conversation=conversation)
        )
    messages = msgspec.json.decode(context.messages)
    assert (context.trimmed, context.head) == (True, 9)
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[0]["content"].startswith("3")
