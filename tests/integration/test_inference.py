"""The inference worker on a real nats-server: what readers, the log and the queue see of a run."""

import asyncio
import time

import msgspec
import pytest

from bus import open_bus
from schemas import frames, ids, subjects
from schemas.commands import Target
from tests.support.inference import MODEL, Desk, Reading, running_worker, simulated
from tests.support.nats import NatsServer


def chunks_of(text: bytes) -> list[bytes]:
    """The JSONs of a stream, after checking that its indexes have no gap."""
    events = frames.split_events(text)
    for index, event in enumerate(events):
        assert event.startswith(b"id: %d\ndata: " % index)
    return [frames.chunk_of(event) for event in events]


async def until_empty(desk: Desk) -> None:
    """Wait until all jobs are acked."""
    async with asyncio.timeout(30):
        while await desk.waiting():  # each look is a round trip: nothing spins
            pass


async def test_a_stream_is_fenced_committed_told_and_acked(server: NatsServer, desk: Desk) -> None:
    async with running_worker(server):
        job = await desk.submit("!tokens 30", include_usage=False)
        reading = await desk.until(job.run_id)
        await until_empty(desk)
    assert len(reading.fences) == 1
    chunks = chunks_of(reading.text)
    assert chunks[-1] == b"[DONE]"
    assert reading.commit.status == "completed"
    (finished,) = await desk.finished(job.run_id)
    assert finished.status == "completed"
    assert finished.frames == len(chunks)
    assert finished.finish_reason in ("stop", "length")
    assert finished.deployment == f"simulated/{MODEL}"
    assert [attempt.count for attempt in finished.attempts] == [len(chunks)]
    assert finished.result is not None
    result = msgspec.json.decode(finished.result)
    streamed = "".join(
        msgspec.json.decode(chunk)["choices"][0]["delta"].get("content") or ""
        for chunk in chunks[:-1]
    )
    assert result["object"] == "chat.completion"
    assert result["id"] == ids.public_id(job.run_id, "chat")
    assert result["choices"][0]["message"]["content"] == streamed
    assert result["usage"]["completion_tokens"] > 0


async def test_an_unstreamed_result_is_one_message_without_a_fence(
    server: NatsServer, desk: Desk
) -> None:
    async with running_worker(server):
        job = await desk.submit(stream=False)
        reading = await desk.until(job.run_id)
    assert not reading.fences
    (frame,) = reading.data
    assert frame.flags == frames.RESULT | frames.COMMIT
    body = msgspec.json.decode(frame.data)
    assert body["object"] == "chat.completion"
    (finished,) = await desk.finished(job.run_id)
    assert finished.result is not None
    assert msgspec.json.decode(finished.result) == body


async def test_a_large_result_comes_in_parts_under_a_fence(server: NatsServer, desk: Desk) -> None:
    async with running_worker(server):
        job = await desk.submit("!tokens 90000", stream=False)
        reading = await desk.until(job.run_id)
    assert len(reading.fences) == 1
    assert len(reading.data) > 1
    assert all(len(frame.data) <= 256 * 1024 for frame in reading.data)
    assert msgspec.json.decode(reading.text)["object"] == "chat.completion"
    (finished,) = await desk.finished(job.run_id)
    assert finished.result is None


async def test_an_error_before_the_first_token_is_a_status_at_index_0(
    server: NatsServer, desk: Desk
) -> None:
    async with running_worker(server):
        for stream in (True, False):
            job = await desk.submit("!fail 400", stream=stream)
            reading = await desk.until(job.run_id)
            (frame,) = reading.data
            assert frame.flags == frames.ERROR | frames.COMMIT
            assert (frame.first, frame.status) == (0, 400)
            (chunk,) = chunks_of(reading.text)
            error = msgspec.json.decode(chunk)["error"]
            assert error["request_id"] == "req_1"
            (finished,) = await desk.finished(job.run_id)
            assert finished.status == "failed"
            assert finished.error is not None


async def test_an_error_after_tokens_is_the_last_frame(server: NatsServer, desk: Desk) -> None:
    async with running_worker(server):
        job = await desk.submit("!tokens 30\n!fail 400 5")
        reading = await desk.until(job.run_id)
    chunks = chunks_of(reading.text)
    assert len(chunks) > 5
    assert "error" in msgspec.json.decode(chunks[-1])
    assert reading.data[-1].flags == frames.ERROR | frames.COMMIT
    assert reading.commit.status == "failed"


async def test_a_run_past_its_deadline_is_not_started(server: NatsServer, desk: Desk) -> None:
    job = await desk.submit(deadline=-1.0)
    async with running_worker(server):
        reading = await desk.until(job.run_id)
    assert reading.data[0].status == 504
    assert b"deadline_exceeded" in reading.text


async def test_a_run_ends_at_its_deadline(server: NatsServer, desk: Desk) -> None:
    async with running_worker(server):
        job = await desk.submit("!stall 3", deadline=0.5)
        reading = await desk.until(job.run_id)
    assert reading.commit.status == "failed"
    assert reading.fold.next >= 4


async def test_a_cancel_ends_a_running_stream_and_keeps_its_text(
    server: NatsServer, desk: Desk
) -> None:
    async with running_worker(server):
        job = await desk.submit("!tokens 30\n!stall 5")
        await desk.until(job.run_id, 5)
        began = time.monotonic()
        await desk.cancel(job.run_id)
        reading = await desk.until(job.run_id)
        assert time.monotonic() - began < 0.5
        await until_empty(desk)
    chunks = chunks_of(reading.text)
    assert msgspec.json.decode(chunks[-1])["error"]["code"] == "cancelled"
    assert reading.commit.status == "cancelled"
    (finished,) = await desk.finished(job.run_id)
    assert finished.status == "cancelled"


async def test_a_cancel_that_came_before_the_worker_is_found(
    server: NatsServer, desk: Desk
) -> None:
    streamed = await desk.submit()
    unstreamed = await desk.submit(stream=False)
    await desk.cancel(streamed.run_id)
    await desk.cancel(unstreamed.run_id)
    async with running_worker(server):
        for job in (streamed, unstreamed):
            reading = await desk.until(job.run_id)
            assert reading.data[0].status == 499
            assert reading.commit.status == "cancelled"


async def test_a_job_that_comes_again_after_its_end_changes_nothing(
    server: NatsServer, desk: Desk
) -> None:
    async with running_worker(server):
        for stream in (True, False):
            job = await desk.submit(stream=stream, run_id=old_run_id())
            first = await desk.until(job.run_id)
            await until_empty(desk)
            await desk.send(job, step=1)
            await until_empty(desk)
            assert (await desk.read(job.run_id)).text == first.text
            assert len(await desk.finished(job.run_id)) == 1


def old_run_id() -> str:
    """The id of a run that was accepted so long ago that its job may come twice."""
    old = ids._to_text(int((time.time() - 90) * 1000) << 80)
    return "run_" + old


async def test_a_drained_worker_hands_its_streams_to_another(
    server: NatsServer, desk: Desk
) -> None:
    providers = simulated(token_ms=20)
    async with running_worker(server, providers, "inference-1", drain_timeout=0.0):
        job = await desk.submit("!tokens 60")
        await desk.until(job.run_id, 10)
    async with running_worker(server, providers, "inference-2"):
        reading = await desk.until(job.run_id)
        await until_empty(desk)
        undisturbed = await desk.submit("!tokens 60", run_id=ids.new_run_id())
        whole = await desk.until(undisturbed.run_id)
    assert [fence.worker for fence in reading.fences] == ["inference-1", "inference-2"]
    assert texts(reading.text) == texts(whole.text)
    (finished,) = await desk.finished(job.run_id)
    first, second = finished.attempts
    assert first.count + second.count == finished.frames == reading.fold.next
    assert second.first == first.count


def texts(text: bytes) -> list[str]:
    """The pieces of a stream's text."""
    found = []
    for chunk in chunks_of(text)[:-1]:
        for choice in msgspec.json.decode(chunk)["choices"]:
            found.append(choice["delta"].get("content") or "")
    return found


async def test_a_stream_outlives_the_servers_restart(server: NatsServer, desk: Desk) -> None:
    async with running_worker(server, simulated(token_ms=20)):
        job = await desk.submit("!tokens 100")
        await desk.until(job.run_id, 10)
        server.kill()
        server.start()
        reading = await until_ended(desk, job.run_id)
        await until_empty(desk)
    assert chunks_of(reading.text)[-1] == b"[DONE]"
    assert len(texts(reading.text)) >= 100
    assert len(await desk.finished(job.run_id)) == 1


async def until_ended(desk: Desk, run_id: str) -> Reading:
    """Read until the run's END, also across a time in which the server is away."""
    back = asyncio.Event()
    desk.bus.on_reconnect(back.set)
    await asyncio.wait_for(back.wait(), 10)
    return await desk.until(run_id)


async def test_before_the_first_token_the_next_deployment_is_tried(
    server: NatsServer, desk: Desk
) -> None:
    targets = [Target("nobody/here", "simulated"), Target(f"simulated/{MODEL}", "simulated")]
    async with running_worker(server):
        job = await desk.submit(targets=targets)
        reading = await desk.until(job.run_id)
    assert reading.commit.status == "completed"
    assert reading.commit.deployment == f"simulated/{MODEL}"


async def test_a_job_for_another_pool_moves_to_its_queue(server: NatsServer, desk: Desk) -> None:
    async with open_bus(server.url("edge"), name="other") as other:
        targets = [Target("remote-1/model", "remote"), Target(f"simulated/{MODEL}", "simulated")]
        async with running_worker(server):
            job = await desk.submit(targets=[*targets[::-1]])
            await desk.until(job.run_id)
            moving = await desk.submit(
                targets=[Target("gone/x", "simulated"), Target("remote-1/model", "remote")],
            )
            async with asyncio.timeout(30):
                while True:
                    stored = await desk.observer.last_message(
                        subjects.JOBS, subjects.inference_job("remote", "interactive")
                    )
                    if stored is not None:
                        break
        assert other.connected
    moved = msgspec.json.decode(stored.data)
    assert moved["run_id"] == moving.run_id
    assert moved["targets"] == [{"deployment": "remote-1/model", "pool": "remote"}]


async def test_a_job_that_fails_its_workers_is_told_and_buried(
    server: NatsServer, desk: Desk
) -> None:
    async with running_worker(server, max_deliver=2):
        # The object store of this worker is not there: reading the request fails in the worker.
        job = await desk.submit()
        await desk.until(job.run_id)
        broken = msgspec.structs.replace(job, run_id=ids.new_run_id(), kind="song")  # type: ignore[arg-type]
        await desk.send(broken)
        await until_empty(desk)
    dead = await desk.observer.last_message(subjects.DEAD, "dead.>")
    assert dead is not None
    assert b"song" in dead.data
    assert b"Jan-Error: " in dead.headers


async def test_a_run_that_gets_on_outlives_any_number_of_workers(
    server: NatsServer, desk: Desk
) -> None:
    job = await desk.submit("!tokens 60")
    frames_stored = 0
    for _ in range(6):
        async with running_worker(server, simulated(token_ms=10), drain_timeout=0):
            reading = await desk.until(job.run_id, frames_stored + 2)
            frames_stored = reading.fold.next
    async with running_worker(server):
        reading = await desk.until(job.run_id)
    assert reading.commit.status == "completed"
    assert len(reading.fences) == 7


async def test_a_worker_never_has_more_jobs_than_slots(server: NatsServer, desk: Desk) -> None:
    async with running_worker(server, simulated(token_ms=5), slots=3) as worker:
        jobs = [await desk.submit("!tokens 10") for _ in range(12)]
        seen = []
        for job in jobs:
            await desk.until(job.run_id)
            seen.append(worker.presence()["running"])
        await until_empty(desk)
    assert max(seen) <= 3  # type: ignore[type-var]


@pytest.mark.parametrize("slots", [1, 2, 64])
async def test_background_jobs_run_beside_interactive_ones(
    server: NatsServer, desk: Desk, slots: int
) -> None:
    async with running_worker(server, slots=slots):
        for background in (True, False, True):
            job = await desk.submit(background=background)
            await desk.until(job.run_id, timeout=5)


async def test_a_crowd_of_streams_comes_through_whole(server: NatsServer, desk: Desk) -> None:
    async with running_worker(server, slots=16):
        jobs = [await desk.submit("!tokens 50", stream=number % 2 == 0) for number in range(60)]
        for job in jobs:
            reading = await desk.until(job.run_id)
            assert reading.commit.status == "completed"
        await until_empty(desk)
