"""Runs that a real bus does not take, or is not there for: what their clients are told."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from bus.connection import Bus
from bus.opening import open_bus
from schemas import subjects
from schemas.events import RunRefused, decode_run_refused
from tests.support.bare_edge import HELLO, URL, Edge, chunk, running_edge, start, stream_of
from tests.support.nats import NatsServer


async def test_a_full_queue_is_a_429(nats: NatsServer, worker: Bus, tmp_path: Path) -> None:
    async with running_edge(nats, tmp_path, deadline=0.01) as edge:
        job = subjects.inference_job("simulated", subjects.INTERACTIVE)
        acks = [
            asyncio.create_task(edge.bus.store(job, b"{}", msg_id=f"fill-{n}")) for n in range(4096)
        ]
        await asyncio.gather(*acks)

        refused = await edge.client.post(URL, json=HELLO)

    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "queue_full"
    told = await _last_refusal(nats)
    assert told.error is not None
    assert b"queue_full" in bytes(told.error)


async def _last_refusal(nats: NatsServer) -> RunRefused:
    """What the log says of a run that it calls accepted, though its job was not taken."""
    async with open_bus(nats.url("cli"), name="test") as log, asyncio.timeout(30):
        while True:
            stored = await log.last_message(subjects.EVENTS, "events.run.refused.*")
            if stored is not None:
                return decode_run_refused(stored.data)
            await asyncio.sleep(0.02)


async def test_without_a_bus_requests_are_refused_within_a_second(
    edge: Edge, nats: NatsServer
) -> None:
    nats.freeze()
    started = asyncio.get_running_loop().time()
    frozen = await edge.client.post(URL, json=HELLO)
    assert asyncio.get_running_loop().time() - started < 1.2
    nats.thaw()
    nats.kill()
    killed = await edge.client.post(URL, json=HELLO)

    assert (frozen.status_code, killed.status_code) == (503, 503)
    assert killed.json()["error"]["code"] == "bus_unavailable"


async def test_a_stream_goes_on_after_the_bus_was_killed(
    edge: Edge, worker: Bus, nats: NatsServer
) -> None:
    async with AsyncExitStack() as stack:
        _, job, pieces = await start(edge, worker, stack)
        back = asyncio.Event()
        worker.on_reconnect(back.set)
        nats.kill()
        nats.start()
        async with asyncio.timeout(30):
            await back.wait()
        # The edge may be back later than the worker: it misses this live, and reads it then.
        await job.send(chunk("b"), chunk("c"))
        await job.send(b"[DONE]", end="completed")

        rest = b"".join([piece async for piece in pieces])
        assert rest == stream_of("a", "b", "c", start=1)
