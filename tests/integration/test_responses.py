"""The worker of the loop on a real nats-server, with a real inference worker: what readers see."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.inference import running_worker, simulated
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.responses import Client, open_client, serving


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    with running_nats(tmp_path / "nats") as running:
        await migrate(running, simulated())
        yield running


@pytest_asyncio.fixture
async def client(server: NatsServer) -> AsyncIterator[Client]:
    async with open_client(server) as opened:
        yield opened


async def test_a_response_without_tools_is_one_step(server: NatsServer, client: Client) -> None:
    async with running_worker(server), serving(server):
        told = await client.until_ended(await client.create("!tokens 5"))
    deltas = [kind for kind in told.types if kind == "response.output_text.delta"]
    assert told.types == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    (message,) = told.response["output"]
    said = "".join(event.get("delta", "") for event in told.events)
    assert message["content"][0]["text"] == said
    assert told.response["status"] == "completed"
    assert told.response["usage"]["output_tokens"] > 0
    assert [event["sequence_number"] for event in told.events] == list(range(len(told.events)))
