"""Responses are stored once, gone on from, listed, deleted; their steps and calls are theirs."""

import asyncio
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert, select, text

from schemas import ids, subjects, writes
from schemas.api.lists import Paging
from schemas.commands import Turn, encode
from schemas.errors import InvalidRequest, JanError, NotFound
from schemas.queries.conversations import MAX_CONTEXT, AskItems
from schemas.queries.responses import AskResponse, AskResponseContext, AskResponseInput
from schemas.queries.runs import AskRunEvents, AskRuns
from schemas.queries.usage import AskUsage
from tests.integration.test_stored_reads import explained
from tests.support.nats import NatsServer
from tests.support.postgres import PostgresServer
from tests.support.projection import PRINCIPAL, Place, open_place
from tests.support.runs import Told, accepted, new_run
from tests.support.stored_responses import call_of, id_of, response_of, said, step_of
from workers.persistence.answers import create_questions
from workers.persistence.facts import Fact
from workers.persistence.queries.conversations import list_items
from workers.persistence.queries.responses import get_responses, list_input
from workers.persistence.queries.runs import get_events, list_runs
from workers.persistence.queries.usage import sum_usage
from workers.persistence.sources import Question, Read
from workers.persistence.tables import (
    conversations,
    entity_events,
    response_items,
    responses,
    run_events,
)

CANCELLED = b'{"error":{"message":"stop","type":"cancelled","code":"cancelled"}}'
REFUSED = b'{"error":{"message":"no such tool","type":"invalid_request_error"}}'


@pytest.fixture
async def place(
    shared_nats: NatsServer, postgres: PostgresServer, tmp_path: Path
) -> AsyncIterator[Place]:
    async with open_place(shared_nats, postgres, tmp_path) as opened:
        yield opened


async def keep(place: Place, asked: Any, **more: Any) -> str:
    """Have a response stored; return its run."""
    run_id = new_run()
    await place.one.take(await place.tell(*response_of(run_id, asked, **more)))
    return run_id


async def get(place: Place, run_id: str, principal: str | None = PRINCIPAL) -> dict[str, Any]:
    question = AskResponse(principal=principal, id=id_of(run_id))
    [told] = await place.one.ask(get_responses, [question])
    if isinstance(told, JanError):
        raise told
    found: dict[str, Any] = msgspec.json.decode(told)
    return found


async def input_of(place: Place, run_id: str, **paging: Any) -> dict[str, Any]:
    question = AskResponseInput(principal=PRINCIPAL, id=id_of(run_id), paging=Paging(**paging))
    page: dict[str, Any] = msgspec.json.decode(await place.one.ask(list_input, question))
    return page


def read_context(place: Place) -> Read:
    """What answers the question for a context, from the database and the log."""
    asked = create_questions(place.cli)["responses.context"]
    assert isinstance(asked, Question)
    return asked.read


async def context(
    place: Place,
    previous: str | None = None,
    *references: str,
    principal: str = PRINCIPAL,
    deleted: bool = False,
) -> list[str]:
    """The texts of what a response would go on from."""
    question = AskResponseContext(
        principal=principal, previous=previous, references=list(references), deleted=deleted
    )
    found = await place.one.ask(read_context(place), question)
    return texts([*found.items, *found.referred.values()])


def texts(items: list[Any]) -> list[str]:
    decoded = [msgspec.json.decode(item) for item in items]
    return [item["content"][0]["text"] for item in decoded]


async def rows(place: Place, statement: Any) -> list[tuple[Any, ...]]:
    async with place.one.engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(statement)]


async def stored_facts(place: Place, run_id: str) -> list[Fact]:
    """What the log says was stored of a response."""
    subject = subjects.state_event("response", "stored", id_of(run_id))
    return [
        Fact(one.seq, one.subject, one.data, one.time)
        async for one in place.cli.read_subject(subjects.EVENTS, subject)
        if id_of(run_id).encode() in one.data
    ]


async def test_a_response_is_stored_once_however_its_facts_are_delivered(place: Place) -> None:
    runs = [new_run() for _ in range(4)]
    told = [response_of(run_id, f"question {run_id}") for run_id in runs]
    begins = await place.tell(*[begin for begin, _ in told])
    ends = await place.tell(*[end for _, end in told])

    await place.one.take([*begins[:2], ends[0]])  # the other begins only the log knows
    await asyncio.gather(place.one.take(ends[:3]), place.two.take(ends[1:]))
    await asyncio.gather(place.two.take(begins + ends), place.one.take(ends[::-1]))

    for run_id, (_, end) in zip(runs, told, strict=True):
        whole = msgspec.json.decode(end.data)["result"]
        found = await get(place, run_id)
        assert found == whole
        assert list(found) == list(whole), "field by field in the order of the answer"
        assert len(await stored_facts(place, run_id)) == 1
    counted = await rows(place, select(responses.c.version, responses.c.status))
    assert counted == [(1, "completed")] * 4
    assert len(await rows(place, select(response_items.c.id))) == 8


async def test_the_own_input_is_listed_newest_first_in_pages(place: Place) -> None:
    asked = [{"role": "user", "content": str(number)} for number in range(5)]
    run_id = await keep(place, [*asked, {"id": "msg_mine", "role": "user", "content": "5"}])
    mine = (await input_of(place, run_id, limit=1))["first_id"]
    assert mine != "msg_mine", "ids are the server's"

    page = await input_of(place, run_id, limit=4)
    assert [item["content"][0]["text"] for item in page["data"]] == ["5", "4", "3", "2"]
    assert page["object"] == "list"
    assert page["data"][0]["id"] == page["first_id"] == mine
    assert page["has_more"]
    rest = await input_of(place, run_id, limit=4, after=page["last_id"])
    assert [item["content"][0]["text"] for item in rest["data"]] == ["1", "0"]
    assert not rest["has_more"]
    oldest = await input_of(place, run_id, order="asc", before=mine)
    assert [item["content"][0]["text"] for item in oldest["data"]] == list("01234")
    with pytest.raises(InvalidRequest) as refused:
        await input_of(place, run_id, after="msg_nowhere")
    assert refused.value.param == "after"


async def test_a_chain_is_gone_on_from_oldest_first(place: Place) -> None:
    first = await keep(place, "one", instructions="Be brief.")
    second = await keep(place, "two", previous_response_id=id_of(first))
    third = await keep(place, "three", previous_response_id=id_of(second))
    spoken = ["one", "re: one", "two", "re: two", "three", "re: three"]
    assert await context(place, id_of(third)) == spoken
    assert await context(place, id_of(second)) == spoken[:4]

    await place.command("responses.delete", writes.DeleteResponse(id_of(second)))
    assert await context(place, id_of(third)) == [*spoken[:2], *spoken[4:]]


async def test_what_came_before_a_deleted_response_is_there_for_its_owner(place: Place) -> None:
    first = await keep(place, "one")
    second = await keep(place, "two", previous_response_id=id_of(first))
    spoken = ["one", "re: one", "two", "re: two"]
    assert await context(place, id_of(second), deleted=True) == spoken

    await place.command("responses.delete", writes.DeleteResponse(id_of(second)))
    assert await context(place, id_of(second), deleted=True) == spoken[:2]
    with pytest.raises(NotFound):
        await context(place, id_of(second))
    for previous in (first, second):
        with pytest.raises(NotFound):
            await context(place, id_of(previous), principal="user_b", deleted=True)


@pytest.mark.parametrize(("status", "run_status"), [("failed", "failed"), ("cancelled",) * 2])
async def test_what_was_cut_short_is_kept_and_gone_on_from(
    place: Place, status: str, run_status: str
) -> None:
    run_id = new_run()
    part = said(run_id, "so far", status="incomplete")
    facts = response_of(run_id, "go", [part], status=status, run_status=run_status)
    await place.one.take(await place.tell(*facts))
    assert (await get(place, run_id))["output"] == [part]
    assert await context(place, id_of(run_id)) == ["go", "so far"]


async def test_what_is_missing_or_foreign_or_at_work_is_named(place: Place) -> None:
    foreign = await keep(place, "hers", principal="user_b")
    working = new_run()
    fleeting = new_run()
    begin, _ = response_of(working, "mine")
    unkept = accepted(fleeting, principal=PRINCIPAL, kind="response")
    await place.one.take(await place.tell(begin, unkept))
    named = (foreign, new_run(), working, fleeting)
    refusals = []
    for previous in (*map(id_of, named), "resp_x", "\u00e9"):
        with pytest.raises(NotFound) as refused:
            await context(place, previous)
        error = refused.value
        assert (error.param, error.code) == ("previous_response_id", "not_found")
        assert error.wire_code == "previous_response_not_found"
        refusals.append(error.message.replace(previous, "ID"))
    assert refusals[0] == refusals[1] == "there is no response ID"
    assert refusals[2] == "the response ID has not ended yet"
    assert refusals[3] == refusals[0]  # nobody will ever be able to go on from it

    mine = (await input_of(place, await keep(place, "mine")))["first_id"]
    hers = ids.derived_id("msg_", foreign, 0)
    for missing in (hers, "msg_nowhere"):
        with pytest.raises(NotFound) as refused:
            await context(place, None, "", mine, missing)
        assert refused.value.param == "input[2].id"
    for question in (get(place, foreign), input_of(place, foreign), get(place, working)):
        with pytest.raises(NotFound):
            await question


async def test_a_reference_is_stored_as_what_it_refers_to(place: Place) -> None:
    first = await keep(place, "remember me")
    [item] = (await input_of(place, first))["data"]
    answer = ids.derived_id("msg_", first, 0)
    assert await context(place, None, item["id"], answer) == ["remember me", "re: remember me"]

    conversation = await place.converse()
    said_there = {"type": "message", "role": "user", "content": [{"type": "input_text"}]}
    said_there["content"] = [{"type": "input_text", "text": "said there"}]
    added = writes.AddItems(conversation, [msgspec.Raw(encode(said_there))])
    [there] = (await place.command("conversations.add_items", added))["data"]
    named = [{"type": "item_reference", "id": one} for one in (answer, there["id"])]
    second = await keep(place, [*named, {"role": "user", "content": "and?"}])
    page = await input_of(place, second, order="asc")
    assert texts([encode(one) for one in page["data"]]) == ["re: remember me", "said there", "and?"]
    assert page["data"][0]["id"] == answer


async def test_a_chain_is_bounded_in_bytes_and_begins_with_what_a_user_said(place: Place) -> None:
    previous: dict[str, Any] = {}
    for number in range(5):
        run_id = await keep(place, f"{number}" + "x" * (MAX_CONTEXT // 9), **previous)
        previous = {"previous_response_id": id_of(run_id)}
    found = await context(place, id_of(run_id))
    assert [one.removeprefix("re: ")[0] for one in found] == list("11223344")
    assert not found[0].startswith("re: ")


async def test_a_chain_is_bounded_to_a_thousand_responses(place: Place) -> None:
    named = [f"resp_{number:026}" for number in range(1005)]
    common = {"principal": PRINCIPAL, "version": 1, "created_at": text("now()")}
    async with place.one.engine.begin() as connection:
        for number, name in enumerate(named):
            row = {"id": name, "run_id": name, "status": "completed", "body": b"{}"}
            row["previous_response_id"] = named[number - 1] if number else None
            await connection.execute(insert(responses).values(**common, **row))
            content = encode({"id": name, "content": [{"text": str(number)}]})
            item = {"id": name, "response_id": name, "position": 0, "is_output": False}
            await connection.execute(
                insert(response_items).values(**common, **item, role="user", content=content)
            )
    found = await context(place, named[-1])
    assert found == [str(number) for number in range(5, 1005)]


async def test_with_a_conversation_items_are_appended_once(place: Place) -> None:
    conversation = await place.converse()
    turn = Turn(conversation, "MAIN")
    before = await keep(place, "before", turn=turn)
    taken = ids.derived_id("msg_", before, 0)
    for text_ in ("What is a heron?", "And a crane?"):
        run_id = new_run()
        output = [
            {"id": ids.derived_id("rs_", run_id, 0), "type": "reasoning", "summary": []},
            {"id": ids.derived_id("ws_", run_id, 1), "type": "web_search_call",
             "status": "searching", "action": {"type": "search", "query": "x"}},
            {**said(run_id, "a bird"), "id": ids.derived_id("msg_", run_id, 2)},
        ]  # fmt: skip
        asked = [{"type": "item_reference", "id": taken}, {"role": "user", "content": text_}]
        facts = await place.tell(*response_of(run_id, asked, output, turn=turn))
        await asyncio.gather(place.one.take(facts), place.two.take(facts))
        await place.two.take(facts)

    question = AskItems(
        principal=PRINCIPAL, conversation=conversation, paging=Paging(order="asc", limit=100)
    )
    kept = msgspec.json.decode(await place.one.ask(list_items, question))["data"]
    of_one = ["message", "message", "reasoning", "web_search_call", "message"]
    assert [item["type"] for item in kept] == ["message"] * 2 + of_one * 2
    assert kept[5]["status"] == "incomplete"
    assert kept[-1]["id"] == ids.derived_id("msg_", run_id, 2), "as the response has it"
    assert len({item["id"] for item in kept}) == len(kept), "also of what was referred to"
    assert await place.told(conversation) == 3
    [(title, version)] = await rows(place, select(conversations.c.title, conversations.c.version))
    assert (title, version) == ("before", 4)
    assert (await input_of(place, run_id))["last_id"] == taken
    [(stored_with,)] = await rows(
        place, select(responses.c.conversation_id).where(responses.c.run_id == run_id)
    )
    assert stored_with == conversation


async def test_without_a_conversation_nothing_goes_into_one(place: Place) -> None:
    await place.converse()
    await keep(place, "hello")
    assert await rows(place, text("SELECT id FROM conversation_items")) == []


async def test_one_that_no_worker_began_is_kept_as_it_was_asked(place: Place) -> None:
    run_id = await keep(
        place, "go", result=None, run_status="cancelled", error=CANCELLED, background=True,
        instructions="Be brief.",
    )  # fmt: skip
    found = await get(place, run_id)
    assert (found["status"], found["output"], found["error"]) == ("cancelled", [], None)
    assert (found["instructions"], found["background"]) == ("Be brief.", False)
    failed = await keep(
        place, "go", result=None, run_status="failed", error=REFUSED, background=True
    )
    found = await get(place, failed)
    assert found["status"] == "failed"
    assert found["error"] == {"code": "server_error", "message": "no such tool"}


async def test_nothing_is_stored_of_what_was_refused(place: Place) -> None:
    conversation = await place.converse()
    turn = Turn(conversation, "MAIN")
    run_id = await keep(place, "go", result=None, run_status="failed", error=REFUSED, turn=turn)
    with pytest.raises(NotFound):
        await get(place, run_id)
    by_a_step = b'{"error":{"message":"too long","type":"server_error","code":"invalid_prompt"}}'
    begin, end = response_of(
        new_run(), "go", status="failed", run_status="failed", error=by_a_step, turn=turn
    )
    told = msgspec.json.decode(end.data)
    told["result"]["output"] = []
    await place.one.take(await place.tell(begin, Told(end.subject, encode(told))))
    assert await place.items(conversation) == []


@pytest.mark.parametrize("result", [b"[]", b"7", b'{"output":7}', b'{"output":[{"id":7}]}'])
async def test_an_object_that_is_none_blocks_nothing(place: Place, result: bytes) -> None:
    turn = Turn(await place.converse(), "MAIN")
    await keep(place, "odd", result=result, turn=turn)
    assert (await get(place, await keep(place, "next")))["status"] == "completed"


async def test_a_deleted_response_is_gone_and_its_conversations_items_stay(place: Place) -> None:
    conversation = await place.converse()
    run_id = await keep(place, "hello", turn=Turn(conversation, "MAIN"))
    facts = await stored_facts(place, run_id)
    named = writes.DeleteResponse(id_of(run_id))
    with pytest.raises(NotFound):
        await place.command("responses.delete", named, principal="user_b")
    answer = await place.command("responses.delete", named)
    assert answer == {"id": id_of(run_id), "object": "response.deleted", "deleted": True}

    for question in (get(place, run_id), input_of(place, run_id), context(place, id_of(run_id))):
        with pytest.raises(NotFound):
            await question
    with pytest.raises(NotFound):
        await place.command("responses.delete", named)
    await place.two.take(facts)  # late: it brings nothing back
    assert await rows(place, select(response_items.c.id)) == []
    assert await rows(place, select(responses.c.body)) == [(None,)]
    assert len(await place.items(conversation)) == 2


async def test_one_that_is_at_work_is_not_deleted(place: Place) -> None:
    run_id = new_run()
    begin, _ = response_of(run_id, "go")
    await place.one.take(await place.tell(begin))
    with pytest.raises(InvalidRequest, match="has not ended"):
        await place.command("responses.delete", writes.DeleteResponse(id_of(run_id)))


async def test_steps_are_no_runs_of_their_own_in_lists_and_in_usage(place: Place) -> None:
    run_id, chat = new_run(), new_run()
    steps = [ids.derived_id("run_", run_id, number) for number in (1, 2)]
    begin, end = response_of(run_id, "go")
    told = [begin, *step_of(run_id, 1), *step_of(run_id, 2), end, accepted(chat)]
    facts = await place.tell(*told)
    await place.one.take(facts[::-1])
    listed = await place.one.ask(list_runs, AskRuns(principal=PRINCIPAL, order="asc"))
    assert {run.run_id for run in listed.runs} == {run_id, chat}
    of_parent = await place.one.ask(list_runs, AskRuns(principal=PRINCIPAL, parent=run_id))
    assert {(run.run_id, run.parent) for run in of_parent.runs} == {(one, run_id) for one in steps}
    foreign = await place.one.ask(list_runs, AskRuns(principal="user_b", parent=run_id))
    assert foreign.runs == []
    question = AskUsage(principal=PRINCIPAL, start=0.0, end=2000.0)
    [used] = msgspec.json.decode(await place.one.ask(sum_usage, question))["data"]
    assert (used["requests"], used["total_tokens"]) == (2, 7)


async def test_a_step_is_known_as_one_by_its_end_alone(place: Place) -> None:
    run_id = new_run()
    _, end = step_of(run_id, 1)
    await place.one.take(await place.tell(end))
    everybodys = await place.one.ask(list_runs, AskRuns())
    assert everybodys.runs == []


async def test_calls_are_told_among_the_facts_of_their_run(place: Place) -> None:
    run_id = new_run()
    begin, end = response_of(run_id, "go")
    facts = await place.tell(begin, *call_of(run_id, 1), end, *call_of("", 1))
    newer = Fact(facts[-1].seq + 1, "events.strange.happened.7", b"\x00", 1000.0)
    await place.one.take([*facts, newer])

    async def nothing(_: int) -> bytes | None:
        return None

    read = functools.partial(get_events, read_fact=nothing)
    found = await place.one.ask(read, AskRunEvents(principal=PRINCIPAL, run_id=run_id))
    verbs = ["accepted", "tool.started", "tool.finished", "finished"]
    assert [event.verb for event in found.events] == verbs
    indexed = await rows(place, select(run_events.c.run_id).distinct())
    assert indexed == [(run_id,)]
    by_itself = select(entity_events.c.verb, entity_events.c.principal).where(
        entity_events.c.entity.like("tool_%")
    )
    found_alone = await rows(place, by_itself.order_by(entity_events.c.seq))
    assert found_alone == [("tool.started", PRINCIPAL), ("tool.finished", PRINCIPAL)]


async def test_what_is_asked_about_responses_is_found_by_indexes(place: Place) -> None:
    previous: dict[str, Any] = {}
    for number in range(3):
        run_id = await keep(place, f"{number}", **previous)
        previous = {"previous_response_id": id_of(run_id)}
    item = ids.derived_id("msg_", run_id, 0)
    asked = [
        (get_responses, [AskResponse(principal=PRINCIPAL, id=id_of(run_id))]),
        (list_input, AskResponseInput(principal=PRINCIPAL, id=id_of(run_id))),
        (
            read_context(place),
            AskResponseContext(principal=PRINCIPAL, previous=id_of(run_id), references=[item]),
        ),
        (list_runs, AskRuns(principal=PRINCIPAL, parent=run_id)),
    ]
    async with place.one.engine.connect() as connection:
        await connection.execute(text("SET enable_seqscan = off"))
        for read, question in asked:
            plans = await explained(connection, functools.partial(read, connection, question))
            assert plans
            for plan in plans:
                assert "Seq Scan" not in plan, plan
                assert "Index" in plan, plan
