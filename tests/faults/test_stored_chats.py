"""The persistence worker is killed under chats and writes: each accepted turn is stored, once.

`JAN_TEST_SECONDS` stretches the load, as in `test_stored`.
"""

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field

import httpx
import pytest

from bus import open_bus
from cli.launch import LaunchedServer
from schemas import subjects
from tests.faults.conftest import CHAT, PROVIDERS, Case, Start
from tests.faults.test_stored import (
    ENV,
    LATER,
    SECONDS,
    WRITERS,
    Disturb,
    Load,
    Record,
    Writer,
    assert_done_as_answered,
    assert_rarely_unknown,
    kill_database,
    kill_workers,
    pages,
    stored_texts,
)
from tests.support.server import eventually, http_client

SPEAKERS = 20
PAUSE = SPEAKERS / 60  # seconds between one speaker's chats: 60 a second in all, with 3 facts each
QUICK = "quick"
PROVIDERS_WITH_QUICK = f"""{PROVIDERS}
  - name: quick
    kind: simulated
    options: {{seed: 7, ttft_ms: 0, token_ms: 0, tokens: 8}}
    models:
      - {{id: {QUICK}, capabilities: [chat]}}
"""

pytestmark = pytest.mark.timeout(300 + 3 * int(SECONDS))


@dataclass
class Speaker:
    """A client that chats, and notes what it was answered; every other one in a conversation."""

    number: int
    conversation: str = ""
    turns: list[str] = field(default_factory=list)  # of its conversation: question, answer, …
    kept: list[str] = field(default_factory=list)  # stored completions
    tokens: int = 0
    answers: Counter[int] = field(default_factory=Counter)

    async def open(self, client: httpx.AsyncClient, url: str) -> None:
        """Make the conversation."""
        self.conversation = (await client.post(f"{url}/conversations", json={})).json()["id"]

    async def speak(self, client: httpx.AsyncClient, url: str, until: float) -> None:
        """Chat until the time: in turn stored, both stored and in a conversation, and so on."""
        loop = asyncio.get_running_loop()
        for count in itertools.count(self.number):
            began = loop.time()
            if began >= until:
                return
            talks, stores = self.number % 2 and count % 4 in (0, 2), count % 4 in (1, 2)
            question = f"<{self.number}.{count}>"
            order = {"model": QUICK, "messages": [{"role": "user", "content": question}]}
            order |= {"conversation": self.conversation} if talks else {}
            order |= {"store": True} if stores else {}
            answer = await client.post(url + CHAT, json=order)
            self.answers[answer.status_code] += 1
            assert answer.status_code in (200, 503), answer.text
            if answer.is_success:
                self.note(answer.json(), question if talks else "", stores)
            await asyncio.sleep(max(0.0, began + PAUSE - loop.time()))

    def note(self, answer: dict[str, object], question: str, stores: bool) -> None:
        """What has to be found later."""
        [choice], usage = answer["choices"], answer["usage"]  # type: ignore[misc]
        self.tokens += usage["total_tokens"]  # type: ignore[index]
        if question:
            self.turns += [question, choice["message"]["content"]]  # type: ignore[index]
        if stores:
            self.kept.append(str(answer["id"]))


async def run_load(case: Case, disturb: Disturb, key: str) -> tuple[Load, list[Speaker]]:
    """Write as one user and chat as another while something is killed."""
    url = case.server.url
    headers = {"Authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=None)
    writers = [Writer(number) for number in range(WRITERS)]
    speakers = [Speaker(number) for number in range(SPEAKERS)]
    async with (
        case.client() as writing,
        httpx.AsyncClient(headers=headers, timeout=60, limits=limits) as chatting,
    ):
        for one in speakers:
            await one.open(chatting, url)
        until = asyncio.get_running_loop().time() + SECONDS
        async with asyncio.TaskGroup() as tasks:
            for writer in writers:
                tasks.create_task(writer.write(writing, url, until))
            for one in speakers:
                tasks.create_task(one.speak(chatting, url, until))
            disturbing = tasks.create_task(disturb(case.server, until))
    return Load(writers, kills=disturbing.result()), speakers


async def log_length(server: LaunchedServer) -> int:
    """How many facts the log has had so far."""
    async with open_bus(server.state.nats_url("cli"), name="test") as bus:
        return (await bus.js.stream_info(subjects.EVENTS)).state.last_seq


def assert_turns_are_there(http: httpx.Client, speakers: list[Speaker]) -> None:
    """Each accepted turn is in its conversation once, in order, with its own answer."""
    for one in speakers:
        path = f"/v1/conversations/{one.conversation}/items?order=asc"
        found = [item["content"][0]["text"] for item in pages(http, path)]
        assert found == one.turns


def assert_used(http: httpx.Client, speakers: list[Speaker]) -> None:
    """The server has counted what the client has: no run is missing, none counts twice."""
    requests = sum(one.answers[200] for one in speakers)
    tokens = sum(one.tokens for one in speakers)
    [row] = http.get("/v1/usage").json()["data"]
    assert (row["requests"], row["failed"], row["total_tokens"]) == (requests, 0, tokens)
    runs = list(pages(http, "/v1/runs?order=asc"))
    assert len(runs) == requests
    assert {run["status"] for run in runs} == {"completed"}


def counted(http: httpx.Client, speakers: list[Speaker]) -> bool:
    """Whether the tables have come as far as the chats did."""
    answer = http.get("/v1/usage")
    data = answer.json().get("data") if answer.is_success else None
    return bool(data) and data[0]["requests"] >= sum(one.answers[200] for one in speakers)


def assert_all_is_there(case: Case, key: str, load: Load, speakers: list[Speaker]) -> None:
    """What was accepted is there once, what was refused is not."""
    with http_client(case.server.url, key) as http:
        assert_turns_are_there(http, speakers)
        assert_used(http, speakers)
        kept = [one["id"] for one in pages(http, "/v1/chat/completions?order=asc")]
        assert Counter(kept) == Counter(one for speaker in speakers for one in speaker.kept)
    assert_done_as_answered(load, stored_texts(case))


async def hold(case: Case, disturb: Disturb, record: Record) -> None:
    """Run the load; then all is there as answered, at once and later, and as the log has it."""
    key = case.server.create_key("--name", "speaker")
    before = await log_length(case.server)
    load, speakers = await run_load(case, disturb, key)
    facts = await log_length(case.server) - before
    with http_client(case.server.url, key) as http:
        eventually(lambda: http.get("/readyz").json()["status"] == "ready", 60)
        eventually(lambda: counted(http, speakers), 60)
    assert_all_is_there(case, key, load, speakers)
    await asyncio.sleep(LATER)  # what was refused must not be done now either
    assert_all_is_there(case, key, load, speakers)
    checked = await asyncio.to_thread(case.server.jan, "rebuild", "all", "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr

    answers = sum((one.answers for one in speakers), Counter[int]())
    statuses = Counter(load.answers.values())
    record("chats", dict(answers))
    record("statuses", dict(statuses))
    record("facts", facts)
    record("kills", load.kills)
    print(f"chats: {dict(answers)}; writes: {dict(statuses)}; facts: {facts}; kills: {load.kills}")
    assert answers[200]
    assert statuses[200]
    assert_rarely_unknown(load)


@pytest.mark.requirement("faults.stored.turns")
async def test_every_accepted_turn_is_stored_once_while_the_worker_is_killed(
    start: Start, record_property: Record
) -> None:
    with start(env=ENV, providers=PROVIDERS_WITH_QUICK) as case:
        await hold(case, kill_workers, record_property)


@pytest.mark.requirement("faults.stored.turns")
async def test_every_accepted_turn_is_stored_once_while_postgres_is_killed(
    start: Start, record_property: Record
) -> None:
    with start(env=ENV, providers=PROVIDERS_WITH_QUICK) as case:
        await hold(case, kill_database, record_property)
