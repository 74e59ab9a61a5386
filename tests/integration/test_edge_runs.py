"""Runs on a real bus, from the request to the answer, with the worker played by the test."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus.connection import Bus
from bus.objects import DirectoryStore
from bus.opening import open_bus
from edge.orders import Caller, Order
from schemas import subjects
from schemas.commands import RunInference
from schemas.content import Content
from schemas.events import decode_run_accepted
from tests.support.bare_edge import (
    HELLO,
    MODEL,
    STREAM,
    URL,
    Edge,
    chunk,
    play,
    running_edge,
    stream_of,
)
from tests.support.nats import NatsServer
from tests.support.worker import take_job


async def logged(nats: NatsServer, run_id: str) -> RunInference:
    """The job of a run, as the log has it."""
    async with open_bus(nats.url("cli"), name="cli") as cli:
        stored = await cli.last_message(subjects.EVENTS, subjects.run_event("accepted", run_id))
    assert stored is not None
    return decode_run_accepted(stored.data).command


async def test_a_stream_is_what_the_worker_stored(edge: Edge, worker: Bus) -> None:
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(edge.client.post(URL, json=STREAM))
        job = await take_job(worker)
        await play(job, "a", "b", "c")

    response = asked.result()
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-run-id"] == job.command.run_id
    assert int(response.headers["openai-processing-ms"]) >= 0
    assert response.content == stream_of("a", "b", "c")


async def test_the_job_carries_the_clients_own_json(edge: Edge, worker: Bus) -> None:
    body = b'{ "model":"jan-simulated", "messages": [{"role":"user","content":"h\\u00e9"}],"x":1}'
    asking = asyncio.create_task(edge.client.post(URL, content=body))
    job = await take_job(worker)

    assert bytes(job.command.request or b"") == body
    assert job.command.principal == "alice"
    assert job.command.model == MODEL
    assert [target.deployment for target in job.command.targets] == ["simulated/m"]
    await job.fence()
    await job.finish(b"{}")
    await asking


async def test_the_log_knows_the_job(edge: Edge, worker: Bus, nats: NatsServer) -> None:
    asking = asyncio.create_task(edge.client.post(URL, json=HELLO))
    job = await take_job(worker)
    await job.fence()
    await job.finish(b"{}")
    await asking

    assert await logged(nats, job.command.run_id) == job.command


@pytest.mark.parametrize(
    ("content", "said"), [("full", "x" * 300), ("short", "x" * 200 + "…"), ("none", None)]
)
async def test_the_log_keeps_as_much_of_what_is_said_as_it_shall(
    nats: NatsServer, worker: Bus, tmp_path: Path, content: Content, said: str | None
) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 300}]}
    async with running_edge(nats, tmp_path, log_content=content) as edge:
        asking = asyncio.create_task(edge.client.post(URL, json=body))
        job = await take_job(worker)
        await job.fence()
        await job.finish(b"{}")
        await asking
        told = await logged(nats, job.command.run_id)

    assert msgspec.json.decode(job.command.request or b"null") == body, "the worker gets all of it"
    kept = msgspec.json.decode(told.request or b"null")
    assert (kept["messages"][0]["content"] if kept else None) == said
    assert told.content == job.command.content == content


@pytest.mark.parametrize("size", [1, 3 << 19])
async def test_a_job_carries_what_a_request_was_resolved_to_and_the_log_the_clients_own(
    edge: Edge, worker: Bus, nats: NatsServer, tmp_path: Path, size: int
) -> None:
    asked, resolved = msgspec.json.encode("asked"), msgspec.json.encode("r" * size)
    order = Order("chat", MODEL, asked, resolved=resolved)
    run = await edge.runs.accept(order, Caller("alice", "req_1"))
    job = await take_job(worker)
    told = await logged(nats, run.run_id)

    assert bytes(told.request or b"") == asked
    carried = bytes(job.command.request or b"")
    if job.command.request_ref is not None:
        carried = await DirectoryStore(tmp_path / "objects").get(job.command.request_ref)
    assert carried == resolved
    assert replace_request(job.command) == replace_request(told)
    await edge.runs.leave(run)


def replace_request(command: RunInference) -> RunInference:
    return msgspec.structs.replace(command, request=None, request_ref=None, sources=None)


async def test_a_large_body_travels_by_the_object_store(
    edge: Edge, worker: Bus, tmp_path: Path
) -> None:
    large = {**HELLO, "messages": [{"role": "user", "content": "x" * (3 << 19)}]}
    asking = asyncio.create_task(edge.client.post(URL, json=large))
    job = await take_job(worker)

    assert job.command.request is None
    body = await DirectoryStore(tmp_path / "objects").get(job.command.request_ref or "")
    assert msgspec.json.decode(body) == large
    await job.fence()
    await job.finish(b"{}")
    assert (await asking).status_code == 200


async def test_an_unstreamed_result_is_passed_through(edge: Edge, worker: Bus) -> None:
    asking = asyncio.create_task(edge.client.post(URL, json=HELLO))
    job = await take_job(worker)
    await job.fence()
    await job.finish(b'{"object": "chat.completion"}')
    response = await asking

    assert response.content == b'{"object": "chat.completion"}'
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-run-id"] == job.command.run_id


@pytest.mark.parametrize("body", [HELLO, STREAM])
async def test_an_error_before_the_first_frame_is_a_status(
    edge: Edge, worker: Bus, body: dict[str, Any]
) -> None:
    asking = asyncio.create_task(edge.client.post(URL, json=body))
    job = await take_job(worker)
    await job.fence()
    error = {"message": "busy", "type": "rate_limit_error", "code": "c", "param": None}
    await job.fail(429, msgspec.json.encode({"error": {**error, "retry_after": 1.5}}))
    response = await asking

    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert response.json()["error"]["message"] == "busy"
    assert response.json()["error"]["request_id"] == "req_1"
    assert response.headers["x-run-id"] == job.command.run_id


async def test_an_error_after_the_first_frame_is_an_event(edge: Edge, worker: Bus) -> None:
    asking = asyncio.create_task(edge.client.post(URL, json=STREAM))
    job = await take_job(worker)
    await job.fence()
    await job.send(chunk("a"))
    await job.fail(502, b'{"error":{"message":"gone","type":"upstream_error"}}')
    response = await asking

    assert response.status_code == 200
    assert response.content.endswith(
        b'id: 1\ndata: {"error":{"message":"gone","type":"upstream_error"}}\n\n'
    )


async def test_a_silent_stream_gets_its_status_and_heartbeats(
    nats: NatsServer, worker: Bus, tmp_path: Path
) -> None:
    options = {"first_frame_wait": 0.1, "heartbeat": 0.3}
    async with running_edge(nats, tmp_path, **options) as edge, edge.post(STREAM) as response:
        assert response.status_code == 200
        pieces = response.aiter_bytes()
        assert [await anext(pieces) for _ in range(3)] == [b": \n\n"] * 3
        await play(await take_job(worker), "a")
        rest = b"".join([piece async for piece in pieces])
        assert rest.replace(b": \n\n", b"") == stream_of("a")


@pytest.mark.parametrize("url", [URL, "/v1/completions"])
async def test_options_of_a_stream_need_one(edge: Edge, url: str) -> None:
    asked = HELLO if url == URL else {"model": MODEL, "prompt": "hello"}
    body = {**asked, "stream_options": {"include_usage": True}}
    refused = await edge.client.post(url, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream_options")


async def test_a_stream_can_be_asked_for_in_the_query(edge: Edge, worker: Bus) -> None:
    asking = asyncio.create_task(edge.client.post(f"{URL}?stream=true", json=HELLO))
    await play(await take_job(worker), "a")

    assert (await asking).content == stream_of("a")
