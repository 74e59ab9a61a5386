"""An edge is killed while its clients read."""

import asyncio

import httpx
import pytest

from tests.faults.conftest import STREAMS, Case, Start, assert_same
from tests.support.sse import Received, Streams


async def read_on(streams: Streams, received: Received, url: str) -> Received:
    """Continue a broken stream at another edge."""
    path = f"{url}/chat/completions/{received.run_id}/stream"
    headers = {"Last-Event-ID": str(received.ids[-1])}
    return await streams.read(received, "GET", path, headers=headers)


async def kill_and_resume(case: Case, texts: list[str]) -> None:
    """Kill the first edge under all streams, and read them to their end at the second."""
    first, second = case.server.edges
    async with case.client() as client:
        streams = Streams(client)
        tasks = case.start(streams, keys=True, url=first)
        await streams.reached(20, STREAMS)
        case.server.kill("edge-1")
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, httpx.HTTPError) for one in ended)
        assert not any(one.complete for one in streams.received)
        resumed = [read_on(streams, one, second) for one in list(streams.received)]
        assert_same(list(await asyncio.gather(*resumed)), texts)


@pytest.mark.requirement("faults.edge.killed")
async def test_every_stream_is_resumed_at_another_edge(start: Start) -> None:
    with start("--edges", "2") as case:
        await kill_and_resume(case, await case.undisturbed())
