"""Webhooks of responses that end before a worker has begun them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from schemas import ids, subjects
from schemas.webhooks import secret_of
from tests.support.inference import running_worker, simulated
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.receiver import Receiver, receiving
from tests.support.responses import Client, open_client, serving, to_job
from tests.support.server import openai_client
from tests.support.tools import running_tools

KEY = "a key"
SENDING = {"tools_queues": ["webhooks"], "outbound_allow": ["127.0.0.1"], "sealing_key": KEY}


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    with running_nats(tmp_path / "nats") as running:
        await migrate(running, simulated())
        yield running


@pytest_asyncio.fixture
async def client(server: NatsServer) -> AsyncIterator[Client]:
    async with open_client(server) as opened:
        yield opened


async def told_of(receiver: Receiver, count: int) -> dict[str, str]:
    """The events that have arrived, each signed, by their responses."""
    arrived = await asyncio.to_thread(receiver.wait_for, count)
    sdk = openai_client("http://127.0.0.1:9", "none")
    events = [one.unwrap(sdk, secret_of(KEY, "somebody")) for one in arrived]
    return {event.data.id: event.type for event in events}


async def waiting(client: Client, subject: str) -> int:
    """How many jobs wait or are at work."""
    found = client.observer.read_subject(subjects.JOBS, subject)
    return len([stored async for stored in found])


@pytest.mark.requirement("responses.webhooks.queue")
async def test_what_nobody_began_tells_how_it_has_ended(server: NatsServer, client: Client) -> None:
    with receiving() as receiver:
        more = {"background": True, "webhook": receiver.url}
        cancelled = await client.create("hello", **more)
        await client.cancel(cancelled)
        late = await client.create("hello", deadline=0.0, **more)
        refused = await client.create("hello", tools=[{"type": "unheard-of"}], **more)
        well = await client.create("hello", **more)
        async with running_worker(server), serving(server), running_tools(server, {}, **SENDING):
            told = await told_of(receiver, 4)
    assert told == {
        ids.public_id(cancelled, "response"): "response.cancelled",
        ids.public_id(late, "response"): "response.failed",
        ids.public_id(refused, "response"): "response.failed",
        ids.public_id(well, "response"): "response.completed",
    }


@pytest.mark.requirement("responses.webhooks.queue")
async def test_a_job_that_is_delivered_again_tells_no_second_time(
    server: NatsServer, client: Client
) -> None:
    job = to_job("hello", background=True, webhook="https://example.com/")
    await client.send(job)
    await client.cancel(job.run_id)
    async with running_worker(server), serving(server):
        await client.until_ended(job.run_id)
        await client.send(job, step=1)
        async with asyncio.timeout(20):
            while await waiting(client, subjects.response_job(subjects.BACKGROUND)):
                pass  # each look waits for the bus
    assert await waiting(client, subjects.tool_job("webhooks")) == 1
