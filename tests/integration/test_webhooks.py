"""Webhooks of responses that end before a worker has begun them."""

import asyncio

import pytest

from schemas import ids, subjects
from schemas.webhooks import secret_of
from tests.support.inference import running_worker
from tests.support.nats import NatsServer
from tests.support.receiver import Receiver, receiving
from tests.support.responses import Client, serving, to_job
from tests.support.server import openai_client
from tests.support.tools import running_tools

KEY = "a key"
SENDING = {"tools_queues": ["webhooks"], "outbound_allow": ["127.0.0.1"], "sealing_key": KEY}


async def told_of(receiver: Receiver, count: int) -> dict[str, str]:
    """The events that have arrived, each signed, by their responses."""
    arrived = await asyncio.to_thread(receiver.wait_for, count)
    sdk = openai_client("http://127.0.0.1:9", "none")
    events = [one.unwrap(sdk, secret_of(KEY, "somebody")) for one in arrived]
    return {event.data.id: event.type for event in events}


async def waiting(caller: Client, subject: str) -> int:
    """How many jobs wait or are at work."""
    found = caller.observer.read_subject(subjects.JOBS, subject)
    return len([stored async for stored in found])


@pytest.mark.requirement("responses.webhooks.queue")
async def test_what_nobody_began_tells_how_it_has_ended(server: NatsServer, caller: Client) -> None:
    with receiving() as receiver:
        more = {"background": True, "webhook": receiver.url}
        cancelled = await caller.create("hello", **more)
        await caller.cancel(cancelled)
        late = await caller.create("hello", deadline=0.0, **more)
        refused = await caller.create("hello", tools=[{"type": "unheard-of"}], **more)
        well = await caller.create("hello", **more)
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
    server: NatsServer, caller: Client
) -> None:
    job = to_job("hello", background=True, webhook="https://example.com/")
    await caller.send(job)
    await caller.cancel(job.run_id)
    async with running_worker(server), serving(server):
        await caller.until_ended(job.run_id)
        await caller.send(job, step=1)
        async with asyncio.timeout(20):
            while await waiting(caller, subjects.response_job(subjects.BACKGROUND)):
                pass  # each look waits for the bus
    assert await waiting(caller, subjects.tool_job("webhooks")) == 1
