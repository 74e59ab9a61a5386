"""Idempotency keys on a real bus: one run for all requests with a key, whichever edge gets them."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus.connection import Bus
from bus.opening import open_bus
from schemas import frames, subjects
from schemas.queries import encode_answer
from schemas.queries.runs import RunResult
from tests.support.bare_edge import (
    HELLO,
    STREAM,
    URL,
    Edge,
    chunk,
    play,
    running_edge,
    settled,
    start,
    stream_of,
)
from tests.support.nats import NatsServer
from tests.support.worker import next_cancel, take_job


async def test_the_same_key_is_one_run(edge: Edge, other: Edge, worker: Bus) -> None:
    key = {"Idempotency-Key": "k"}
    async with asyncio.TaskGroup() as group:
        first = group.create_task(edge.client.post(URL, json=STREAM, headers=key))
        second = group.create_task(other.client.post(URL, json=STREAM, headers=key))
        job = await take_job(worker)
        await play(job, "a", "b")
    later = await other.client.post(URL, json=STREAM, headers=key)

    assert first.result().content == second.result().content == later.content == stream_of("a", "b")
    runs = {answer.headers["x-run-id"] for answer in (first.result(), second.result(), later)}
    assert runs == {job.command.run_id}
    with pytest.raises(TimeoutError):
        await take_job(worker, timeout=0.2)


async def test_the_same_key_with_another_body_is_a_conflict(edge: Edge, worker: Bus) -> None:
    key = {"Idempotency-Key": "k"}
    asking = asyncio.create_task(edge.client.post(URL, json=HELLO, headers=key))
    job = await take_job(worker)
    conflict = await edge.client.post(URL, json={**HELLO, "seed": 1}, headers=key)
    theirs = asyncio.create_task(
        edge.client.post(URL, json={**HELLO, "seed": 1}, headers={**key, "X-Name": "bob"})
    )
    bobs = await take_job(worker)

    assert conflict.status_code == 409
    assert conflict.json()["error"]["code"] == "idempotency_conflict"
    for each in (job, bobs):
        await each.fence()
        await each.finish(b"{}")
    assert (await asking).status_code == (await theirs).status_code == 200


async def test_a_keys_run_goes_on_when_its_client_is_gone(edge: Edge, worker: Bus) -> None:
    cancelled = await next_cancel(worker)
    async with AsyncExitStack() as stack:
        _, job, _ = await start(edge, worker, stack, **{"Idempotency-Key": "k"})
    await job.send(chunk("b"))
    await job.send(b"[DONE]", end="completed")

    again = await edge.client.post(URL, json=STREAM, headers={"Idempotency-Key": "k"})
    assert again.content == stream_of("a", "b")
    assert not cancelled.done()


async def test_a_key_whose_run_was_given_up_is_free_again(
    nats: NatsServer, worker: Bus, tmp_path: Path
) -> None:
    key = {"Idempotency-Key": "k"}
    cancelled = await next_cancel(worker)
    async with running_edge(nats, tmp_path, keyed_grace=0.05) as edge:
        async with AsyncExitStack() as stack:
            _, job, _ = await start(edge, worker, stack, **key)
        await cancelled
        await settled(edge)
        async with AsyncExitStack() as stack:
            response, _, _ = await start(edge, worker, stack, **key)
            assert response.headers["x-run-id"] != job.command.run_id


async def test_a_key_whose_run_was_cancelled_starts_another(edge: Edge, worker: Bus) -> None:
    key = {"Idempotency-Key": "k"}
    asking = asyncio.create_task(edge.client.post(URL, json=STREAM, headers=key))
    job = await take_job(worker)
    await job.fence()
    error = b'{"error":{"message":"stopped","type":"cancelled"}}'
    await job.send(error, flags=frames.ERROR, status=499, end="cancelled")
    assert (await asking).status_code == 499
    again = asyncio.create_task(edge.client.post(URL, json=STREAM, headers=key))
    await play(await take_job(worker), "a")

    assert (await again).content == stream_of("a")


async def test_a_key_survives_a_request_that_could_not_be_accepted(
    nats: NatsServer, worker: Bus, tmp_path: Path
) -> None:
    """The bus is frozen right after the key was taken: 503, and the repeat gets an answer."""
    key = {"Idempotency-Key": "k"}
    async with running_edge(nats, tmp_path) as edge:
        claim = edge.runs._keys.claim

        async def claim_and_freeze(*args: Any) -> Any:
            claimed = await claim(*args)
            nats.freeze()
            return claimed

        edge.runs._keys.claim = claim_and_freeze  # type: ignore[method-assign]
        started = asyncio.get_running_loop().time()
        refused = await edge.client.post(URL, json=STREAM, headers=key)
        assert asyncio.get_running_loop().time() - started < 1.2
        edge.runs._keys.claim = claim  # type: ignore[method-assign]
        nats.thaw()
        asking = asyncio.create_task(edge.client.post(URL, json=STREAM, headers=key))
        await play(await take_job(worker), "a")

    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert (await asking).content == stream_of("a")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stored_result_answers_a_key_when_the_frames_are_gone(
    nats: NatsServer, worker: Bus, tmp_path: Path, stream: bool
) -> None:
    body = {**HELLO, "stream": stream}
    message = {"role": "assistant", "content": "hi"}
    result = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1},
    }

    async def answer(asked: Any) -> None:
        stored = RunResult("r", "completed", result=msgspec.Raw(msgspec.json.encode(result)))
        persistence.publish(asked.reply.decode(), encode_answer(stored))

    async with (
        running_edge(nats, tmp_path, deadline=0.05, slack=0.0) as edge,
        open_bus(nats.url("persistence"), name="p") as persistence,
    ):
        subject = subjects.query("runs", "result")
        answers: list[asyncio.Task[None]] = []
        await persistence.subscribe(
            subject, lambda asked: answers.append(asyncio.create_task(answer(asked)))
        )
        await persistence.nc.flush()
        caller_key = {"Idempotency-Key": "k"}
        async with edge.post(body, **caller_key):
            pass  # never served: its deadline is over at once
        again = await edge.client.post(URL, json=body, headers=caller_key)

    assert again.status_code == 200
    if not stream:
        assert again.json() == result
        return
    events = [frames.chunk_of(event) for event in frames.split_events(again.content)]
    chunk = msgspec.json.decode(events[0])
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["choices"] == [{"index": 0, "delta": message, "finish_reason": "stop"}]
    assert events[-1] == b"[DONE]"
