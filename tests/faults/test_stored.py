"""The persistence worker or PostgreSQL is killed under a load of writes: each is done as answered.

`JAN_TEST_SECONDS` stretches the load: 60 is worth a night, the default a suite.
"""

import asyncio
import itertools
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest

from bus import Bus, open_bus
from cli.launch import LaunchedServer
from schemas import subjects
from schemas.events import decode_state_changed
from tests.faults.conftest import CHAT, MODEL, Case, Start
from tests.faults.test_capacity import worker_joins
from tests.faults.test_postgres import frozen_postgres
from tests.support.runs import new_run, store, whole_run
from tests.support.server import eventually, http_client
from tests.support.sse import Received, Streams

SECONDS = float(os.environ.get("JAN_TEST_SECONDS", "10"))
KILL_EVERY = 2.0
WRITERS = 20
PAUSE = WRITERS / 50  # seconds between one writer's commands: 50 a second in all
FACTS_PAUSE = 3 / 200  # between two runs of three facts each
PATIENCE = 4.0  # seconds, JAN_WRITE_PATIENCE: an answer comes four seconds later at the latest
LATER = PATIENCE + 5  # by then nothing is done any more
RARE = 0.02  # of all commands: those whose outcome is unknown …
FEW = 3  # … and so many at least, as this machine may be slow
ENV = {"JAN_WRITE_PATIENCE": f"{PATIENCE:g}"}

pytestmark = pytest.mark.timeout(240 + 3 * int(SECONDS))


@dataclass
class Writer:
    """One client: it makes a conversation, appends ten items, and so on, one after the other."""

    number: int
    answers: dict[str, int] = field(default_factory=dict)  # by the text that was to be stored
    conversation: str = ""

    async def write(self, client: httpx.AsyncClient, url: str, until: float) -> None:
        """Write until the time; whatever the answer, the next command is another one."""
        loop = asyncio.get_running_loop()
        for count in itertools.count():
            began = loop.time()
            if began >= until:
                return
            text = f"<{self.number}.{count}>"
            items = [{"type": "message", "role": "user", "content": text}]
            create = count % 10 == 0 or not self.conversation
            path = "" if create else f"/{self.conversation}/items"
            answer = await client.post(f"{url}/conversations{path}", json={"items": items})
            self.answers[text] = answer.status_code
            assert answer.status_code in (200, 500, 503), answer.text
            if answer.status_code == 500:
                assert answer.json()["error"]["code"] == "outcome_unknown", answer.text
            if create:
                self.conversation = answer.json()["id"] if answer.is_success else ""
            await asyncio.sleep(max(0.0, began + PAUSE - loop.time()))


@dataclass
class Load:
    """What was written and told while things were killed."""

    writers: list[Writer]
    runs: list[str] = field(default_factory=list)
    streams: list[Received] = field(default_factory=list)
    kills: int = 0

    @property
    def answers(self) -> dict[str, int]:
        """Every command's status."""
        return {text: code for one in self.writers for text, code in one.answers.items()}


Disturb = Callable[[LaunchedServer, float], Coroutine[Any, Any, int]]  # … and tells how often


async def run_load(case: Case, disturb: Disturb) -> Load:
    """Write, tell and chat for some seconds while something is disturbed."""
    until = asyncio.get_running_loop().time() + SECONDS
    writers = [Writer(number) for number in range(WRITERS)]
    runs: list[str] = []
    async with case.client() as client, buses(case.server) as (edge, inference):
        async with asyncio.TaskGroup() as tasks:
            for one in writers:
                tasks.create_task(one.write(client, case.server.url, until))
            tasks.create_task(tell(edge, inference, runs, until))
            chatting = tasks.create_task(chat(case, client, until))
            disturbing = tasks.create_task(disturb(case.server, until))
        return Load(writers, runs, chatting.result(), disturbing.result())


@asynccontextmanager
async def buses(server: LaunchedServer) -> AsyncIterator[tuple[Bus, Bus]]:
    """Connections of those who tell of runs."""
    async with AsyncExitStack() as stack:
        edge, inference = [
            await stack.enter_async_context(open_bus(server.state.nats_url(user), name="test"))
            for user in ("edge", "inference")
        ]
        yield edge, inference


async def tell(edge: Bus, inference: Bus, runs: list[str], until: float) -> None:
    """Tell of one run after the other."""
    loop = asyncio.get_running_loop()
    while (began := loop.time()) < until:
        runs.append(new_run())
        await store(edge, inference, whole_run(runs[-1]))
        await asyncio.sleep(max(0.0, began + FACTS_PAUSE - loop.time()))


async def chat(case: Case, client: httpx.AsyncClient, until: float) -> list[Received]:
    """Read streams, one after the other."""
    streams = Streams(client)
    messages = [{"role": "user", "content": "Tell a story."}]
    order = {"model": MODEL, "messages": messages, "stream": True}
    while asyncio.get_running_loop().time() < until:
        await streams.read(Received(), "POST", case.server.url + CHAT, json=order)
    return streams.received


async def kill_workers(server: LaunchedServer, until: float) -> int:
    """Kill the persistence workers again and again."""
    return await again_and_again(server, until, "persistence")


async def kill_database(server: LaunchedServer, until: float) -> int:
    """Kill PostgreSQL again and again."""
    return await again_and_again(server, until, "postgres")


async def again_and_again(server: LaunchedServer, until: float, kind: str) -> int:
    loop = asyncio.get_running_loop()
    kills = 0
    while loop.time() < until - KILL_EVERY:
        await asyncio.sleep(KILL_EVERY)
        for process in server.processes(kind):
            if (
                process.state == "ready" and not process.joined
            ):  # killed while it starts, it would never do anything
                with suppress(ProcessLookupError):  # it has just died
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
    return kills


async def freeze_database(server: LaunchedServer, until: float) -> int:
    """PostgreSQL says nothing for most of the time, and long enough that writes are given up."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(KILL_EVERY)
    with frozen_postgres(server), http_client(server.url) as http:
        await asyncio.to_thread(
            eventually, lambda: http.get("/readyz").json()["status"] == "degraded"
        )
        await asyncio.sleep(max(PATIENCE + 6, until - loop.time()))
    return 1


async def stop_database(server: LaunchedServer, until: float) -> int:
    """PostgreSQL is down for half of the time, as nobody is there to start it again."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(KILL_EVERY)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        server.kill("postgres")
        await asyncio.sleep(max(PATIENCE + 6, (until - loop.time()) / 2))
    finally:
        os.kill(server.pid, signal.SIGCONT)
    return 1


def stored_texts(case: Case) -> dict[str, list[str]]:
    """What every conversation has, in its order, as a client reads it."""
    found: dict[str, list[str]] = {}
    with http_client(case.server.url, case.key) as http:
        for conversation in pages(http, "/v1/conversations?order=asc"):
            path = f"/v1/conversations/{conversation['id']}/items?order=asc"
            found[conversation["id"]] = [item["content"][0]["text"] for item in pages(http, path)]
    return found


def pages(http: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    """Everything of a list."""
    after = ""
    while True:
        page = eventually(
            lambda url=f"{path}&limit=100{after}": (got := http.get(url)).is_success and got
        ).json()
        yield from page["data"]
        if not page["has_more"]:
            return
        after = f"&after={page['last_id']}"


def assert_done_as_answered(load: Load, found: dict[str, list[str]]) -> None:
    """200: there, once. 503: not there. Unknown: at most once. And in the order of their client."""
    counts = Counter(itertools.chain.from_iterable(found.values()))
    answers = load.answers
    wrong = {
        text: (code, counts[text])
        for text, code in answers.items()
        if counts[text] not in {200: (1,), 503: (0,), 500: (0, 1)}[code]
    }
    assert not wrong
    assert set(counts) <= set(answers)
    for texts in found.values():
        numbers = [int(re.findall(r"\d+", text)[1]) for text in texts]
        assert numbers == sorted(numbers)


async def assert_told(case: Case, load: Load, found: dict[str, list[str]]) -> None:
    """The log has what is stored, and of each run that was told the database has its end."""
    told: set[str] = set()
    async with open_bus(case.server.state.nats_url("cli"), name="test") as bus:
        async for fact in bus.read_subject(subjects.EVENTS, "events.conversation.>"):
            rows = decode_state_changed(fact.data).rows.get("conversation_items", [])
            told |= {re.findall(r"<\d+\.\d+>", bytes(row["content"]).decode())[0] for row in rows}
    assert told == set(itertools.chain.from_iterable(found.values()))
    url = case.server.state.database_url.replace("+psycopg", "")
    query = "SELECT count(*) FROM runs WHERE status = 'completed' AND run_id = ANY(%s)"
    with psycopg.connect(url, autocommit=True) as connection:
        eventually(
            lambda: connection.execute(query, [load.runs]).fetchone() == (len(load.runs),), 30
        )


async def hold(case: Case, disturb: Disturb, record: Callable[[str, object], None]) -> Load:
    """Run the load, then look at once and later: as answered, both times."""
    load = await run_load(case, disturb)
    with http_client(case.server.url) as http:
        eventually(lambda: http.get("/readyz").json()["status"] == "ready", 30)
    found = stored_texts(case)
    assert_done_as_answered(load, found)
    await asyncio.sleep(LATER)  # what was refused must not be done now either
    assert stored_texts(case) == found
    await assert_told(case, load, found)
    assert load.streams
    assert all(stream.whole for stream in load.streams)
    statuses = Counter(load.answers.values())
    record("statuses", dict(statuses))
    record("kills", load.kills)
    print(f"answers: {dict(statuses)}; runs told: {len(load.runs)}; kills: {load.kills}")
    assert statuses[200]
    return load


def assert_rarely_unknown(load: Load) -> None:
    """Almost no command's outcome is unknown."""
    answers = list(load.answers.values())
    assert answers.count(500) <= max(FEW, RARE * len(answers))


Record = Callable[[str, object], None]


@pytest.mark.requirement("faults.stored.worker")
async def test_writes_are_done_as_answered_while_the_worker_is_killed(
    start: Start, record_property: Record
) -> None:
    with start(env=ENV) as case:
        assert_rarely_unknown(await hold(case, kill_workers, record_property))


@pytest.mark.requirement("faults.stored.worker")
async def test_two_workers_of_which_one_is_killed_do_nothing_twice(
    start: Start, record_property: Record
) -> None:
    with start(env=ENV) as case, worker_joins(case.server, "persistence"):
        eventually(
            lambda: [one.state for one in case.server.processes("persistence")] == ["ready"] * 2, 60
        )
        assert_rarely_unknown(await hold(case, kill_workers, record_property))


@pytest.mark.requirement("faults.stored.database")
async def test_writes_are_done_as_answered_while_postgres_is_killed(
    start: Start, record_property: Record
) -> None:
    with start(env=ENV) as case:
        assert_rarely_unknown(await hold(case, kill_database, record_property))


@pytest.mark.requirement("faults.stored.away")
async def test_what_was_refused_while_postgres_was_away_is_never_done(
    start: Start, record_property: Record
) -> None:
    """It stands still for longer than a write waits: what was under way is unknown, no more."""
    with start(env=ENV) as case:
        load = await hold(case, freeze_database, record_property)
        answers = list(load.answers.values())
        assert answers.count(503)
        assert answers.count(500) <= 2 * WRITERS  # those that were being committed


@pytest.mark.requirement("faults.stored.away")
async def test_what_was_refused_while_postgres_was_down_is_never_done(
    start: Start, record_property: Record
) -> None:
    with start(env=ENV) as case:
        load = await hold(case, stop_database, record_property)
        answers = list(load.answers.values())
        assert answers.count(503)
        assert answers.count(500) <= WRITERS  # those that were under way when it was killed
