"""Everything that carries a response out is killed again and again while it does."""

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from mcp import Client

from cli.launch import LaunchedServer
from tests.faults.conftest import Case, Start
from tests.support.mcp_server import running_mcp

SECONDS = float(os.environ.get("JAN_TEST_SECONDS", "10"))
PAUSE = 0.5
RESPONSES = 50
ROUNDS = 3
KILLED = ("edge", "inference", "responses", "tools", "persistence")

PROVIDERS = """
providers:
  - name: cued
    kind: simulated
    options: {seed: 7, ttft_ms: 20, token_ms: 10, cues: true}
    models:
      - {id: cued, capabilities: [chat, tools]}
"""


class Reader:
    """A client that reads one response's stream, at whichever edge answers."""

    def __init__(self, case: Case, client: httpx.AsyncClient, number: int, url: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.reconnects = 0
        self._case = case
        self._client = client
        self._key = f"chaos-{number}-{random.random()}"
        self.key = f"response {number}"
        asked = f'!tool count {{"key": "{self.key}"}}\n!rounds {ROUNDS}'
        server = {"type": "mcp", "server_label": "counter", "server_url": url}
        self._body = {
            "model": "cued",
            "input": asked,
            "tools": [server | {"require_approval": "never"}],
            "background": True,
            "stream": True,
        }

    @property
    def ended(self) -> bool:
        """Whether the last event has come."""
        return bool(self.events) and self.events[-1]["type"] in (
            "response.completed",
            "response.failed",
            "response.incomplete",
        )

    @property
    def response(self) -> dict[str, Any]:
        """The object of the last event."""
        found: dict[str, Any] = self.events[-1]["response"]
        return found

    async def read(self) -> None:
        """Read to the end, from one edge or the other."""
        while not self.ended:
            try:
                await self._read_on(random.choice(self._case.server.edges))
            except httpx.HTTPError:
                self.reconnects += 1
                await asyncio.sleep(0.2)

    async def _read_on(self, edge: str) -> None:
        if not self.events:
            headers = {"Idempotency-Key": self._key}
            request = self._client.stream(
                "POST", f"{edge}/responses", json=self._body, headers=headers
            )
        else:
            response_id = self.events[0]["response"]["id"]
            after = self.events[-1]["sequence_number"]
            url = f"{edge}/responses/{response_id}?stream=true&starting_after={after}"
            request = self._client.stream("GET", url)
        async with request as answer:
            if answer.status_code != 200:
                await answer.aread()
                raise httpx.ReadError(f"{answer.status_code}: {answer.text}")
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    self.events.append(msgspec.json.decode(line[6:]))

    async def read_again(self) -> list[dict[str, Any]]:
        """All events, read anew."""
        response_id = self.events[0]["response"]["id"]
        url = f"{self._case.server.url}/responses/{response_id}?stream=true"
        answer = await self._client.get(url)
        lines = answer.text.split("\n")
        return [msgspec.json.decode(line[6:]) for line in lines if line.startswith("data: ")]


async def kill_again_and_again(server: LaunchedServer, until_done: asyncio.Event) -> int:
    """kill -9 a process of any kind every half second."""
    kills = 0
    loop = asyncio.get_running_loop()
    end = loop.time() + SECONDS
    while loop.time() < end and not until_done.is_set():
        await asyncio.sleep(PAUSE)
        kind = random.choice(KILLED)
        ready = [found for found in server.processes(kind) if found.state == "ready"]
        if ready:
            try:
                server.kill(random.choice(ready).name)
                kills += 1
            except ProcessLookupError:
                continue
    return kills


@pytest.mark.requirement("faults.responses")
@pytest.mark.timeout(SECONDS + 200)
async def test_every_response_completes_once_whatever_is_killed(
    start: Start, record_property: Callable[[str, object], None]
) -> None:
    arguments = ("--edges", "2", "--inference", "2", "--scale", "responses=2", "--scale", "tools=2")
    env = {"JAN_OUTBOUND_ALLOW": "127.0.0.1"}
    with (
        running_mcp() as url,
        start(*arguments, providers=PROVIDERS, env=env) as case,
    ):
        async with case.client() as client:
            done = asyncio.Event()
            killing = asyncio.create_task(kill_again_and_again(case.server, done))
            readers: list[Reader] = []
            while not killing.done():
                first = len(readers)
                batch = [Reader(case, client, first + at, url) for at in range(RESPONSES)]
                readers += batch
                async with asyncio.timeout(SECONDS + 120):
                    await asyncio.gather(*(reader.read() for reader in batch))
            kills = await killing
            again = [await reader.read_again() for reader in readers]
        async with Client(url) as counter:
            counted = (await counter.call_tool("counted", {})).structured_content
    assert counted is not None
    unknown = 0
    for reader, events in zip(readers, again, strict=True):
        numbers = [event["sequence_number"] for event in reader.events]
        assert numbers == list(range(len(numbers)))
        assert reader.events == events
        assert reader.response["status"] == "completed", reader.response["error"]
        listed, *calls, message = reader.response["output"]
        assert listed["type"] == "mcp_list_tools"
        assert [call["type"] for call in calls] == ["mcp_call"] * ROUNDS
        assert message["status"] == "completed"
        assert "error" not in listed, listed["error"]
        well = sum(call["status"] == "completed" for call in calls)
        failed = [call for call in calls if call["status"] != "completed"]
        assert all("may have been done or not" in str(call["error"]) for call in failed), failed
        # What can't be known has failed, and was not done twice.
        assert well <= counted.get(reader.key, 0) <= well + len(failed)
        unknown += len(failed)
    record_property("kills", kills)
    reconnects = sum(reader.reconnects for reader in readers)
    told = f"{len(readers)} responses, {kills} kills, {reconnects} reconnects"
    print(f"{told}, {unknown} of {len(readers) * ROUNDS} calls of unknown outcome")
