"""Searching in one's own documents, by real workers on a real database."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import subjects, writes
from schemas.tools import ToolResult
from tests.support.nats import migrate, running_nats
from tests.support.persistence import running_worker
from tests.support.postgres import PostgresServer
from tests.support.stored import of_edge
from tests.support.tools import ToolDesk, open_tool_desk, running_tools

QUEUES = {"tools_queues": ["file_search_index", "file_search_query"]}

TIDES = "The sea rises and falls twice a day, as the moon pulls at it."
BREAD = "Bread is baked from flour, water, salt and yeast.\n\nThe moon has nothing to do with it."


@pytest.fixture
async def desk(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[ToolDesk]:
    with running_nats(tmp_path) as server:
        await migrate(server)
        async with (
            postgres.database() as database,
            running_worker(server, database),
            running_tools(server, **QUEUES),
            open_tool_desk(server) as desk,
        ):
            yield desk


async def index(desk: ToolDesk, document: str, text: str, **given: Any) -> ToolResult:
    principal = given.pop("principal", "user:anna")
    options = given.pop("options", None)
    arguments = {"document_id": document, "text": text, **given}
    return await desk.result(
        "file_search_index",
        arguments,
        queue="file_search_index",
        principal=principal,
        options=options,
    )


async def search(desk: ToolDesk, query: str, **given: Any) -> ToolResult:
    principal = given.pop("principal", "user:anna")
    options = given.pop("options", None)
    return await desk.result(
        "file_search_query",
        {"query": query, **given},
        queue="file_search_query",
        principal=principal,
        options=options,
    )


def found(result: ToolResult) -> list[str]:
    assert result.status == "completed", result.output
    return [hit["document"] for hit in msgspec.json.decode(result.structured or b"")["results"]]


@pytest.mark.requirement("tools.file_search")
async def test_what_was_indexed_is_found_best_first(desk: ToolDesk) -> None:
    first = await index(desk, "tides", TIDES, name="On tides", tags=["sea"], metadata={"year": 1})
    await index(desk, "bread", BREAD)
    result = await search(desk, "why does the sea rise with the moon?")
    assert first.output == "The document tides is indexed, in 1 pieces."
    assert found(result) == ["tides", "bread"]
    best = result.citations[0]
    assert (best.title, best.file_id) == ("On tides", "tides")
    assert "twice a day" in best.text
    hit = msgspec.json.decode(result.structured or b"")["results"][0]
    assert hit["attributes"] == {"year": 1, "tags": ["sea"]}
    assert found(await search(desk, "baking breads")) == ["bread"]
    assert found(await search(desk, "moon", document_ids=["bread"])) == ["bread"]
    assert found(await search(desk, "moon", top_k=1)) == ["tides"]


async def test_nothing_is_found_by_words_that_are_nowhere(desk: ToolDesk) -> None:
    await index(desk, "tides", TIDES)
    for query in (
        "volcano",
        "the",
        "...",
        "owner=user:anna",
        "' | 'owner=user:anna",
        "\0",
        "& | !",
    ):
        result = await search(desk, query)
        assert found(result) in ([], ["tides"] if query == "the" else [])


@pytest.mark.requirement("tools.file_search.owner")
async def test_another_users_documents_are_as_if_they_were_not_there(desk: ToolDesk) -> None:
    await index(desk, "tides", TIDES)
    await index(desk, "tides", "Something else of the sea", principal="user:bert")
    assert found(await search(desk, "moon", principal="user:bert")) == []
    assert found(await search(desk, "moon", principal="user:b' & 'owner=user:anna")) == []
    assert found(await search(desk, "moon", principal="user:bert", document_ids=["tides"])) == []
    assert found(await search(desk, "moon")) == ["tides"]


async def test_a_document_that_is_indexed_anew_is_replaced(desk: ToolDesk) -> None:
    long = "\n\n".join(f"Chapter {number} tells of whales. " + "word " * 200 for number in range(9))
    await index(desk, "book", long)
    assert len(found(await search(desk, "whales", top_k=20))) == 9
    again = await index(desk, "book", "Only of seals now.")
    assert again.output == "The document book is indexed anew, in 1 pieces."
    assert found(await search(desk, "whales", top_k=20)) == []
    assert found(await search(desk, "seals")) == ["book"]
    await index(desk, "book", long)
    assert len(found(await search(desk, "whales", top_k=20))) == 9


async def test_an_index_call_that_comes_again_is_done_once(desk: ToolDesk) -> None:
    job = await desk.call(
        "file_search_index",
        {"document_id": "d", "text": "otters"},
        queue="file_search_index",
        principal="user:anna",
    )
    await desk.until_ended(job.call_id)
    told = await documents_told(desk)
    await desk.send(job, "file_search_index", step=1)
    await desk.until_empty()
    assert await documents_told(desk) == told == 1


async def documents_told(desk: ToolDesk) -> int:
    """How many facts about documents the log has."""
    told = desk.observer.read_subject(subjects.EVENTS, "events.document.indexed.*")
    return len([stored async for stored in told])


async def test_a_request_narrows_the_search(desk: ToolDesk) -> None:
    await index(desk, "a", TIDES, options={"store": "vs_1"})
    await index(desk, "b", TIDES)
    options = {"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 5}
    assert found(await search(desk, "moon", options=options)) == ["a"]
    assert found(await search(desk, "moon", options={"vector_store_ids": ["vs_2"]})) == []
    strict = {"ranking_options": {"score_threshold": 0.99}}
    assert found(await search(desk, "moon", options=strict)) == []


def where(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


SOUND: list[tuple[dict[str, Any], set[str]]] = [
    (where("eq", "year", 1950), {"old"}),
    (where("ne", "year", 1950), {"new", "plain"}),
    (where("eq", "tags", "sea"), {"old", "new"}),
    (where("eq", "draft", True), {"new"}),
    (where("gt", "year", 1950), {"new"}),
    (where("gte", "year", 1950.0), {"old", "new"}),
    (where("lt", "day", "2001-01-01"), {"old"}),
    (where("lte", "year", "2001"), set()),
    (where("in", "year", [1950, 7]), {"old"}),
    (where("nin", "year", [1950, 7]), {"new", "plain"}),
    (where("in", "year", []), set()),
    (where("eq", "' OR 1=1 --", "x"), set()),
    ({"type": "and", "filters": [where("eq", "tags", "sea"), where("ne", "year", 1950)]}, {"new"}),
    (
        {
            "type": "or",
            "filters": [
                where("eq", "year", 1950),
                {"type": "and", "filters": [where("eq", "draft", True)]},
            ],
        },
        {"old", "new"},
    ),
]


@pytest.mark.requirement("tools.file_search.filters")
async def test_filters_find_documents_by_their_attributes(desk: ToolDesk) -> None:
    await index(desk, "old", TIDES, tags=["sea"], metadata={"year": 1950, "day": "1950-05-01"})
    await index(desk, "new", TIDES, tags=["sea", "moon"], metadata={"year": 2020, "draft": True})
    await index(desk, "plain", TIDES)
    for filters, documents in SOUND:
        assert set(found(await search(desk, "moon", options={"filters": filters}))) == documents
    unsound = await search(desk, "moon", options={"filters": {"type": "eq", "key": "year"}})
    assert unsound.error is not None
    assert unsound.error.code == "invalid_options"
    assert "'filters.value' is required" in unsound.output


async def carry_out(desk: ToolDesk, principal: str, noun: str, verb: str, body: Any) -> None:
    """Have something written, as an edge does."""
    from edge.orders import Caller

    await of_edge(desk.bus).command(noun, verb, Caller(principal, "req_1"), body)


@pytest.mark.requirement("tools.file_search.forget")
async def test_a_document_is_forgotten(desk: ToolDesk) -> None:
    await index(desk, "tides", TIDES)
    await carry_out(desk, "user:anna", "files", "forget", writes.ForgetFile("tides"))
    assert found(await search(desk, "moon")) == []
    async with asyncio.timeout(30):
        while await documents_told(desk):  # noqa: ASYNC110 - what it said goes from the log too
            await asyncio.sleep(0.2)
    await index(desk, "tides", TIDES)
    assert found(await search(desk, "moon")) == ["tides"]


@pytest.mark.requirement("tools.file_search.owner")
async def test_documents_go_with_their_user(desk: ToolDesk) -> None:
    await index(desk, "tides", TIDES)
    await index(desk, "tides", TIDES, principal="user:bert")
    await carry_out(desk, "user:anna", "users", "delete", writes.DeleteUser())
    assert found(await search(desk, "moon")) == []
    assert found(await search(desk, "moon", principal="user:bert")) == ["tides"]


async def test_without_a_database_the_model_is_told(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        await migrate(server)
        async with running_tools(server, **QUEUES), open_tool_desk(server) as desk:
            result = await search(desk, "moon")
    assert result.error is not None
    assert result.error.code == "unavailable"
