"""What the fault tests share: streams in the middle of which something is killed."""

import asyncio
import hashlib
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.launch import LaunchedServer
from tests.support.server import running_server
from tests.support.sse import Received, Streams

MODEL = "steady"
STREAMS = 20
CHAT = "/chat/completions"

# 160 tokens at 25 ms: four seconds, in the middle of which there is time to kill something.
PROVIDERS = f"""
providers:
  - name: steady
    kind: simulated
    options: {{seed: 7, ttft_ms: 20, token_ms: 25, tokens: 160}}
    models:
      - {{id: {MODEL}, capabilities: [chat]}}
"""


class Case:
    """A server, a key, and the texts that undisturbed runs have."""

    def __init__(self, server: LaunchedServer) -> None:
        self.server = server
        self.key = server.create_key()

    def client(self) -> httpx.AsyncClient:
        """A client that can hold many streams open."""
        limits = httpx.Limits(max_connections=None)
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.AsyncClient(headers=headers, timeout=60, limits=limits)

    async def undisturbed(self) -> list[str]:
        """What each stream's text is when nothing happens."""
        async with self.client() as client:
            streams = Streams(client)
            tasks = self.start(streams)
            return [received.text for received in await asyncio.gather(*tasks)]

    async def disturbed(self, name: str, *signals: signal.Signals, at: int = 20) -> list[Received]:
        """Read all streams to their ends; once each has `at` events, signal a process (kill -9)."""
        async with self.client() as client:
            streams = Streams(client)
            tasks = self.start(streams)
            await streams.reached(at, STREAMS)
            for number in signals or (signal.SIGKILL,):
                self.server.kill(name, number)
            return list(await asyncio.gather(*tasks))

    def start(
        self, streams: Streams, *, keys: bool = False, url: str = ""
    ) -> list[asyncio.Task[Received]]:
        """Start all streams at once, with an Idempotency-Key each if told so."""
        tasks = []
        for number in range(STREAMS):
            received = Received()
            streams.received.append(received)
            headers = {"Idempotency-Key": key_of(streams, number)} if keys else {}
            request = {"json": order(number), "headers": headers}
            reading = streams.read(received, "POST", (url or self.server.url) + CHAT, **request)
            tasks.append(asyncio.create_task(reading))
        return tasks


def key_of(streams: Streams, number: int) -> str:
    """An Idempotency-Key for one stream."""
    return hashlib.sha256(f"{id(streams)} {number}".encode()).hexdigest()


def order(number: int) -> dict[str, Any]:
    """The request of one stream."""
    text = f"Tell story number {number}."
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": True}


def assert_same(received: list[Received], texts: list[str]) -> None:
    """Each stream is complete, has every index once, and says what it would have said anyway."""
    broken = {n: one.ids[-3:] for n, one in enumerate(received) if not one.whole}
    assert not broken
    assert [one.text for one in received] == texts


Start = Callable[..., AbstractContextManager[Case]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a server of the test's own."""

    @contextmanager
    def start_case(*arguments: str, providers: str = PROVIDERS, **options: Any) -> Iterator[Case]:
        file = tmp_path / "providers.yaml"
        file.write_text(providers)
        with running_server("--providers", str(file), *arguments, **options) as server:
            yield Case(server)

    return start_case
