"""Many idle streams, and a queue that is full."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from urllib.parse import urlsplit

import nats.errors
import psutil
import pytest

from bus import Bus, open_bus
from cli.launch import LaunchedServer, environment
from cli.process import raise_file_limit
from schemas import subjects
from tests.faults.conftest import CHAT, Case, Start

IDLE = 2000
BATCH = 256
QUEUE = 4096  # max_msgs_per_subject in nats/streams/JOBS.json
MORE = 50
MODEL = "quick"
PROVIDERS = f"""
providers:
  - name: quick
    kind: simulated
    options: {{ttft_ms: 0, token_ms: 0, tokens: 3, cues: true}}
    models:
      - {{id: {MODEL}, capabilities: [chat]}}
"""


def request(case: Case, text: str, *, stream: bool) -> bytes:
    """A request as bytes: thousands of full clients would be the test's own load."""
    message = {"role": "user", "content": text}
    body = json.dumps({"model": MODEL, "messages": [message], "stream": stream})
    path = urlsplit(case.server.url + CHAT).path
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {case.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@asynccontextmanager
async def connected(
    case: Case,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the first edge."""
    target = urlsplit(case.server.url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def head(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """A response's status and head."""
    text = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 150)
    return int(text[9:12]), text.lower()


async def ask(case: Case, text: str = "Hello.") -> tuple[int, bytes]:
    """Ask on a connection of its own."""
    async with connected(case) as (reader, writer):
        writer.write(request(case, text, stream=False))
        return await head(reader)


async def queued(bus: Bus, count: int) -> None:
    """Wait until so many jobs are in the queue."""
    async with asyncio.timeout(60):
        while True:
            with suppress(nats.errors.TimeoutError):  # it has a lot to do: ask again
                if (await bus.js.stream_info(subjects.JOBS)).state.messages == count:
                    return
            await asyncio.sleep(0.05)


@contextmanager
def worker_joins(server: LaunchedServer, kind: str = "inference") -> Iterator[None]:
    """One more worker, started by hand."""
    with (server.data.parent / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "cli", "worker", kind, "--data", str(server.data)],
            env=environment({}),
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(40)


@pytest.mark.requirement("capacity.idle")
async def test_two_thousand_idle_streams_stay_open(start: Start) -> None:
    raise_file_limit()
    with start(providers=PROVIDERS, env={"JAN_SLOTS": str(IDLE + 100)}) as case:
        edge = psutil.Process(case.server.process("edge-1").pid)
        before = edge.memory_info().rss
        body = request(case, "!stall 1", stream=True)

        async def open_stream(stack: AsyncExitStack) -> asyncio.StreamReader:
            reader, writer = await stack.enter_async_context(connected(case))
            writer.write(body)
            status, _ = await head(reader)
            assert status == 200
            await asyncio.wait_for(reader.readuntil(b"id: 0\n"), 60)
            return reader

        async with AsyncExitStack() as stack:
            opened: list[asyncio.StreamReader] = []
            for _ in range(0, IDLE, 200):
                opened += await asyncio.gather(*(open_stream(stack) for _ in range(200)))
            grown = (edge.memory_info().rss - before) / IDLE / 1024
            print(f"an idle stream costs the edge {grown:.0f} KiB")
            assert [status for status, _ in [await ask(case) for _ in range(5)]] == [200] * 5
            assert not any(reader.at_eof() for reader in opened)
        assert (await ask(case))[0] == 200


@pytest.mark.requirement("capacity.queue")
async def test_a_full_queue_refuses_and_loses_nothing(start: Start) -> None:
    raise_file_limit()
    with start("--inference", "0", providers=PROVIDERS) as case:
        async with open_bus(case.server.state.nats_url("cli"), name="test") as bus:
            waiting: list[asyncio.Task[tuple[int, bytes]]] = []
            while len(waiting) < QUEUE:  # in batches: this is no test of how many come at once
                waiting += [asyncio.create_task(ask(case)) for _ in range(BATCH)]
                await queued(bus, len(waiting))
            refused = await asyncio.gather(*(ask(case) for _ in range(MORE)))
            await queued(bus, QUEUE)
        assert {status for status, _ in refused} <= {429, 503}
        assert all(b"\r\nretry-after:" in told for _, told in refused)
        assert not any(one.done() for one in waiting)
        with worker_joins(case.server):
            answers = await asyncio.gather(*waiting)
    assert Counter(status for status, _ in answers) == {200: QUEUE}
