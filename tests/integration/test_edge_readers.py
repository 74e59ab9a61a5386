"""Who reads a run on a real bus: resumed at another edge, gone, slow, or sent elsewhere."""

import asyncio
from contextlib import AsyncExitStack

import httpx
import msgspec
import pytest

from bus.connection import Bus
from schemas import frames, ids, subjects
from tests.support.bare_edge import HELLO, STREAM, URL, Edge, chunk, play, settled, start, stream_of
from tests.support.worker import next_cancel, take_job


async def test_a_run_is_resumed_at_another_edge(edge: Edge, other: Edge, worker: Bus) -> None:
    async with AsyncExitStack() as stack:
        response, job, _ = await start(edge, worker, stack)
        public = ids.public_id(response.headers["x-run-id"], "chat")
        resumed = asyncio.create_task(
            other.client.get(f"{URL}/{public}/stream", headers={"Last-Event-ID": "0"})
        )
        both = asyncio.create_task(other.client.get(f"{URL}/{public}/stream"))
        await job.send(chunk("b"), chunk("c"))
        await job.send(b"[DONE]", end="completed")

        assert (await resumed).content == stream_of("a", "b", "c", start=1)
        assert (await both).content == stream_of("a", "b", "c")
    later = await edge.client.get(f"{URL}/{public}/stream", params={"starting_after": 1})
    assert later.content == stream_of("a", "b", "c", start=2)


async def test_a_queued_run_can_be_resumed(edge: Edge, other: Edge, worker: Bus) -> None:
    asking = asyncio.create_task(edge.client.post(URL, json=STREAM))
    job = await take_job(worker)
    resumed = asyncio.create_task(other.client.get(f"{URL}/{job.command.run_id}/stream"))
    async with asyncio.timeout(30):
        while not len(other.runs):  # noqa: ASYNC110 (what is waited for is another task's doing)
            await asyncio.sleep(0.01)
    await play(job, "a")

    assert (await resumed).content == (await asking).content == stream_of("a")


async def test_a_foreign_run_is_answered_as_a_missing_one(edge: Edge, worker: Bus) -> None:
    async with AsyncExitStack() as stack:
        response, _, _ = await start(edge, worker, stack)
        foreign = ids.public_id(response.headers["x-run-id"], "chat")
        answers = []
        for public in (foreign, ids.public_id(ids.new_run_id(), "chat"), "chatcmpl-nonsense"):
            url, mallory = f"{URL}/{public}", {"X-Name": "mallory"}
            answers.append(await edge.client.get(f"{url}/stream", headers=mallory))
            answers.append(await edge.client.post(f"{url}/cancel", headers=mallory))

        assert {answer.status_code for answer in answers} == {404}
        assert len({answer.content for answer in answers}) == 1


async def test_a_disconnect_cancels_the_run(edge: Edge, worker: Bus) -> None:
    cancelled = await next_cancel(worker)
    async with AsyncExitStack() as stack:
        _, job, _ = await start(edge, worker, stack)

    async with asyncio.timeout(1):
        assert (await cancelled).decode() == job.command.run_id


async def test_a_disconnect_behind_another_request_cancels_the_run(edge: Edge, worker: Bus) -> None:
    """The client has sent its next request before it left: that one waits, and hides the end."""
    cancelled = await next_cancel(worker)
    body = msgspec.json.encode(STREAM)
    ask = f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    port = int(edge.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ask + body)
    job = await take_job(worker)
    await job.fence()
    await job.send(chunk("a"))
    await reader.readuntil(b"id: 0")
    writer.write(b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n")
    await writer.drain()
    writer.transport.abort()
    # Reading is paused for the second request: what is written next meets the closed socket.
    for text in ("b", "c", "d"):
        await job.send(chunk(text))
    assert (await asyncio.wait_for(cancelled, 5)) is not None


async def test_a_disconnect_of_one_of_two_readers_cancels_nothing(
    edge: Edge, other: Edge, worker: Bus
) -> None:
    cancelled = await next_cancel(worker)
    async with AsyncExitStack() as second:
        async with AsyncExitStack() as first:
            response, job, _ = await start(edge, worker, first)
            url = f"{URL}/{response.headers['x-run-id']}/stream"
            resumed = await second.enter_async_context(other.client.stream("GET", url))
        async with asyncio.timeout(30):
            await settled(edge)
        assert not cancelled.done()
        await job.send(b"[DONE]", end="completed")
        assert await resumed.aread() == stream_of("a")


async def test_cancel_tells_how_the_run_ended(edge: Edge, other: Edge, worker: Bus) -> None:
    cancelled = await next_cancel(worker)
    async with AsyncExitStack() as stack:
        response, job, pieces = await start(edge, worker, stack)
        public = ids.public_id(response.headers["x-run-id"], "chat")
        cancelling = asyncio.create_task(other.client.post(f"{URL}/{public}/cancel"))
        await cancelled
        await job.send(b'{"error":{}}', flags=frames.ERROR, status=499, end="cancelled")
        told = (await cancelling).json()
        assert b"".join([piece async for piece in pieces]) == frames.sse(1, b'{"error":{}}')

    assert told == {"id": public, "object": "chat.completion", "status": "cancelled"}
    again = await edge.client.post(f"{URL}/{public}/cancel")
    assert again.json() == told


async def test_a_drained_edge_hands_its_streams_to_another(
    edge: Edge, other: Edge, worker: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled = await next_cancel(worker)
    async with AsyncExitStack() as stack:
        response, job, pieces = await start(edge, worker, stack)
        draining = asyncio.create_task(edge.runs.drain(0.05))
        got = await anext(pieces)
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(pieces)
        await draining
        refused = await edge.client.post(URL, json=HELLO)
        url = f"{URL}/{response.headers['x-run-id']}/stream?starting_after=0"
        resumed = asyncio.create_task(other.client.get(url))
        await job.send(chunk("b"))
        await job.send(b"[DONE]", end="completed")

    assert got.startswith(b"retry: ")
    assert refused.status_code == 503
    assert (await resumed).content == stream_of("a", "b", start=1)
    assert not cancelled.done()
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


async def test_workers_are_told_which_runs_are_read(edge: Edge, other: Edge, worker: Bus) -> None:
    async with AsyncExitStack() as stack:
        _, job, _ = await start(edge, worker, stack)
        asked = msgspec.json.encode([job.command.run_id, "run_unknown"])
        # Named, or not: the edge that reads it answers.
        for subject in (subjects.edge_alive("edge-1"), subjects.edge_alive("_")):
            assert msgspec.json.decode(await worker.ask(subject, asked)) == [job.command.run_id]
    nothing = await worker.ask(subjects.edge_alive("edge-2"), b'["run_unknown"]')
    assert msgspec.json.decode(nothing) == []


async def test_a_client_that_stops_reading_stalls_nobody(edge: Edge, worker: Bus) -> None:
    """16 MiB go to a client that reads nothing; another one gets its text at once."""
    piece = b'"' + b"x" * 200_000 + b'"'
    async with AsyncExitStack() as stack:
        _, slow, pieces = await start(edge, worker, stack)
        for _ in range(80):
            await slow.send(piece)
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(edge.client.post(URL, json=STREAM))
            await play(await take_job(worker), "a", "b")
        assert asked.result().content == stream_of("a", "b")
        assert all(reader._size < 4 << 20 for reader in edge.runs._inbox._readers)
        await slow.send(b"[DONE]", end="completed")
        size = sum([len(got) async for got in pieces])

    assert size > 80 * 200_000
