"""Runs on a real bus: what clients of one or two edges see, with the worker played by the test."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from starlette.routing import Router

from bus.buckets import Bucket
from bus.connection import Bus
from bus.objects import DirectoryStore
from bus.opening import open_bus
from edge.admission import Admission
from edge.auth import Principal
from edge.errors import send_error, to_error
from edge.inbox import open_inbox
from edge.metrics import Metrics
from edge.orders import Caller, Order
from edge.protocol import Protocol
from edge.routes import chat, completions, embeddings
from edge.runs import RunOptions, Runs, open_runs
from edge.stored import Positions, Stored
from schemas import frames, ids, subjects
from schemas.catalogue import Catalogue, Deployment, Model
from schemas.commands import RunInference
from schemas.content import Content
from schemas.errors import JanError
from schemas.events import RunRefused, decode_run_accepted, decode_run_refused
from schemas.queries import encode_answer
from schemas.queries.runs import RunResult
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.worker import Job, next_cancel, take_job

MODEL = "jan-simulated"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
STREAM = {**HELLO, "stream": True}
SECRET = b"s" * 32
CATALOGUE = Catalogue([Model(MODEL, 0, "simulated", [Deployment("simulated/m", "simulated")])])
ROUTES = [*chat.ROUTES, *completions.ROUTES, *embeddings.ROUTES]
URL = "/v1/chat/completions"


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path / "nats") as server:
        yield server


@dataclass
class Edge:
    """One edge on the bus, and a client of it."""

    runs: Runs
    bus: Bus
    client: httpx.AsyncClient
    url: str

    @asynccontextmanager
    async def post(self, body: dict[str, Any], **headers: str) -> AsyncIterator[httpx.Response]:
        """Start a chat completion; its stream is open in the context."""
        async with self.client.stream("POST", URL, json=body, headers=headers) as response:
            yield response


def _app(state: dict[str, Any]) -> Any:
    """The routes, behind the least that they need: the principal is named by a header."""
    router = Router(ROUTES)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        name = dict(scope["headers"]).get(b"x-name", b"alice").decode()
        told = {"principal": Principal(name, name, "api_key"), "request_id": "req_1"}
        scope["state"] = {**state, **told}
        try:
            await router(scope, receive, send)
        except JanError as error:
            await send_error(to_error(error, scope), "req_1", send)

    return app


@asynccontextmanager
async def running_edge(
    nats: NatsServer, folder: Path, name: str = "edge-1", **options: Any
) -> AsyncIterator[Edge]:
    """Serve one edge on a free port."""
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(open_bus(nats.url("edge"), name=name))
        inbox = await stack.enter_async_context(open_inbox(bus, name))
        runs = Runs(
            bus,
            inbox,
            DirectoryStore(folder),
            Admission(CATALOGUE),
            replace(RunOptions(edge=name, secret=SECRET), **options),
        )
        await stack.enter_async_context(open_runs(runs))
        positions = Positions(Bucket(bus, subjects.KV_POSITIONS), lambda: False)
        stored = Stored(bus, positions, patience=1.0)
        app = _app({"runs": runs, "stored": stored, "metrics": Metrics({MODEL})})
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, http=Protocol, lifespan="off", log_level="warning")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listening]))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=10))
        try:
            yield Edge(runs, bus, client, url)
        finally:
            server.should_exit = server.force_exit = True
            await serving


@pytest.fixture
async def worker(nats: NatsServer) -> AsyncIterator[Bus]:
    await migrate(nats)
    async with open_bus(nats.url("inference"), name="worker") as bus:
        yield bus


@pytest.fixture
async def edge(nats: NatsServer, worker: Bus, tmp_path: Path) -> AsyncIterator[Edge]:
    async with running_edge(nats, tmp_path / "objects") as edge:
        yield edge


@pytest.fixture
async def other(nats: NatsServer, worker: Bus, tmp_path: Path) -> AsyncIterator[Edge]:
    async with running_edge(nats, tmp_path / "objects", "edge-2") as edge:
        yield edge


def _chunk(text: str) -> bytes:
    return msgspec.json.encode({"choices": [{"delta": {"content": text}}]})


async def _play(job: Job, *texts: str) -> None:
    """Serve a streamed run from its beginning to its end."""
    await job.fence()
    for text in texts:
        await job.send(_chunk(text))
    await job.send(b"[DONE]", end="completed")
    job.ack()


def _stream(*texts: str, start: int = 0) -> bytes:
    """What the client of `_play` gets."""
    events = [*map(_chunk, texts), b"[DONE]"]
    return b"".join([frames.sse(index, event) for index, event in enumerate(events)][start:])


async def _start(
    edge: Edge, worker: Bus, stack: AsyncExitStack, **headers: str
) -> tuple[httpx.Response, Job, AsyncIterator[bytes]]:
    """Open a stream and send its first frame; the client has read that."""
    asking = asyncio.create_task(stack.enter_async_context(edge.post(STREAM, **headers)))
    job = await take_job(worker)
    await job.fence()
    await job.send(_chunk("a"))
    response = await asking
    pieces = response.aiter_bytes()
    assert await anext(pieces) == frames.sse(0, _chunk("a"))
    return response, job, pieces


async def _settled(edge: Edge) -> None:
    """Wait until the edge has decided about the runs that its clients have left."""
    while len(edge.runs):  # noqa: ASYNC110 (what is waited for is another task's doing)
        await asyncio.sleep(0)
    while edge.runs._tasks:
        await asyncio.wait(edge.runs._tasks)


async def test_a_stream_is_what_the_worker_stored(edge: Edge, worker: Bus) -> None:
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(edge.client.post(URL, json=STREAM))
        job = await take_job(worker)
        await _play(job, "a", "b", "c")

    response = asked.result()
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-run-id"] == job.command.run_id
    assert int(response.headers["openai-processing-ms"]) >= 0
    assert response.content == _stream("a", "b", "c")


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
    async with open_bus(nats.url("cli"), name="cli") as cli:
        subject = subjects.run_event("accepted", job.command.run_id)
        stored = await cli.last_message(subjects.EVENTS, subject)

    assert stored is not None
    assert decode_run_accepted(stored.data).command == job.command


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
        async with open_bus(nats.url("cli"), name="cli") as cli:
            subject = subjects.run_event("accepted", job.command.run_id)
            stored = await cli.last_message(subjects.EVENTS, subject)

    assert stored is not None
    told = decode_run_accepted(stored.data).command
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
    async with open_bus(nats.url("cli"), name="cli") as cli:
        stored = await cli.last_message(subjects.EVENTS, subjects.run_event("accepted", run.run_id))

    assert stored is not None
    told = decode_run_accepted(stored.data).command
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
    await job.send(_chunk("a"))
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
        await _play(await take_job(worker), "a")
        rest = b"".join([piece async for piece in pieces])
        assert rest.replace(b": \n\n", b"") == _stream("a")


@pytest.mark.parametrize("url", [URL, "/v1/completions"])
async def test_options_of_a_stream_need_one(edge: Edge, url: str) -> None:
    asked = HELLO if url == URL else {"model": MODEL, "prompt": "hello"}
    body = {**asked, "stream_options": {"include_usage": True}}
    refused = await edge.client.post(url, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream_options")


async def test_a_stream_can_be_asked_for_in_the_query(edge: Edge, worker: Bus) -> None:
    asking = asyncio.create_task(edge.client.post(f"{URL}?stream=true", json=HELLO))
    await _play(await take_job(worker), "a")

    assert (await asking).content == _stream("a")


async def test_a_run_is_resumed_at_another_edge(edge: Edge, other: Edge, worker: Bus) -> None:
    async with AsyncExitStack() as stack:
        response, job, _ = await _start(edge, worker, stack)
        public = ids.public_id(response.headers["x-run-id"], "chat")
        resumed = asyncio.create_task(
            other.client.get(f"{URL}/{public}/stream", headers={"Last-Event-ID": "0"})
        )
        both = asyncio.create_task(other.client.get(f"{URL}/{public}/stream"))
        await job.send(_chunk("b"), _chunk("c"))
        await job.send(b"[DONE]", end="completed")

        assert (await resumed).content == _stream("a", "b", "c", start=1)
        assert (await both).content == _stream("a", "b", "c")
    later = await edge.client.get(f"{URL}/{public}/stream", params={"starting_after": 1})
    assert later.content == _stream("a", "b", "c", start=2)


async def test_a_queued_run_can_be_resumed(edge: Edge, other: Edge, worker: Bus) -> None:
    asking = asyncio.create_task(edge.client.post(URL, json=STREAM))
    job = await take_job(worker)
    resumed = asyncio.create_task(other.client.get(f"{URL}/{job.command.run_id}/stream"))
    async with asyncio.timeout(30):
        while not len(other.runs):  # noqa: ASYNC110 (what is waited for is another task's doing)
            await asyncio.sleep(0.01)
    await _play(job, "a")

    assert (await resumed).content == (await asking).content == _stream("a")


async def test_a_foreign_run_is_answered_as_a_missing_one(edge: Edge, worker: Bus) -> None:
    async with AsyncExitStack() as stack:
        response, _, _ = await _start(edge, worker, stack)
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
        _, job, _ = await _start(edge, worker, stack)

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
    await job.send(_chunk("a"))
    await reader.readuntil(b"id: 0")
    writer.write(b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n")
    await writer.drain()
    writer.transport.abort()
    # Reading is paused for the second request: what is written next meets the closed socket.
    for text in ("b", "c", "d"):
        await job.send(_chunk(text))
    assert (await asyncio.wait_for(cancelled, 5)) is not None


async def test_a_disconnect_of_one_of_two_readers_cancels_nothing(
    edge: Edge, other: Edge, worker: Bus
) -> None:
    cancelled = await next_cancel(worker)
    async with AsyncExitStack() as second:
        async with AsyncExitStack() as first:
            response, job, _ = await _start(edge, worker, first)
            url = f"{URL}/{response.headers['x-run-id']}/stream"
            resumed = await second.enter_async_context(other.client.stream("GET", url))
        async with asyncio.timeout(30):
            await _settled(edge)
        assert not cancelled.done()
        await job.send(b"[DONE]", end="completed")
        assert await resumed.aread() == _stream("a")


async def test_cancel_tells_how_the_run_ended(edge: Edge, other: Edge, worker: Bus) -> None:
    cancelled = await next_cancel(worker)
    async with AsyncExitStack() as stack:
        response, job, pieces = await _start(edge, worker, stack)
        public = ids.public_id(response.headers["x-run-id"], "chat")
        cancelling = asyncio.create_task(other.client.post(f"{URL}/{public}/cancel"))
        await cancelled
        await job.send(b'{"error":{}}', flags=frames.ERROR, status=499, end="cancelled")
        told = (await cancelling).json()
        assert b"".join([piece async for piece in pieces]) == frames.sse(1, b'{"error":{}}')

    assert told == {"id": public, "object": "chat.completion", "status": "cancelled"}
    again = await edge.client.post(f"{URL}/{public}/cancel")
    assert again.json() == told


async def test_the_same_key_is_one_run(edge: Edge, other: Edge, worker: Bus) -> None:
    key = {"Idempotency-Key": "k"}
    async with asyncio.TaskGroup() as group:
        first = group.create_task(edge.client.post(URL, json=STREAM, headers=key))
        second = group.create_task(other.client.post(URL, json=STREAM, headers=key))
        job = await take_job(worker)
        await _play(job, "a", "b")
    later = await other.client.post(URL, json=STREAM, headers=key)

    assert first.result().content == second.result().content == later.content == _stream("a", "b")
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
        _, job, _ = await _start(edge, worker, stack, **{"Idempotency-Key": "k"})
    await job.send(_chunk("b"))
    await job.send(b"[DONE]", end="completed")

    again = await edge.client.post(URL, json=STREAM, headers={"Idempotency-Key": "k"})
    assert again.content == _stream("a", "b")
    assert not cancelled.done()


async def test_a_key_whose_run_was_given_up_is_free_again(
    nats: NatsServer, worker: Bus, tmp_path: Path
) -> None:
    key = {"Idempotency-Key": "k"}
    cancelled = await next_cancel(worker)
    async with running_edge(nats, tmp_path, keyed_grace=0.05) as edge:
        async with AsyncExitStack() as stack:
            _, job, _ = await _start(edge, worker, stack, **key)
        await cancelled
        await _settled(edge)
        async with AsyncExitStack() as stack:
            response, _, _ = await _start(edge, worker, stack, **key)
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
    await _play(await take_job(worker), "a")

    assert (await again).content == _stream("a")


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
        await _play(await take_job(worker), "a")

    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert (await asking).content == _stream("a")


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
        _, job, pieces = await _start(edge, worker, stack)
        back = asyncio.Event()
        worker.on_reconnect(back.set)
        nats.kill()
        nats.start()
        async with asyncio.timeout(30):
            await back.wait()
        # The edge may be back later than the worker: it misses this live, and reads it then.
        await job.send(_chunk("b"), _chunk("c"))
        await job.send(b"[DONE]", end="completed")

        rest = b"".join([piece async for piece in pieces])
        assert rest == _stream("a", "b", "c", start=1)


async def test_a_drained_edge_hands_its_streams_to_another(
    edge: Edge, other: Edge, worker: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled = await next_cancel(worker)
    async with AsyncExitStack() as stack:
        response, job, pieces = await _start(edge, worker, stack)
        draining = asyncio.create_task(edge.runs.drain(0.05))
        got = await anext(pieces)
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(pieces)
        await draining
        refused = await edge.client.post(URL, json=HELLO)
        url = f"{URL}/{response.headers['x-run-id']}/stream?starting_after=0"
        resumed = asyncio.create_task(other.client.get(url))
        await job.send(_chunk("b"))
        await job.send(b"[DONE]", end="completed")

    assert got.startswith(b"retry: ")
    assert refused.status_code == 503
    assert (await resumed).content == _stream("a", "b", start=1)
    assert not cancelled.done()
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


async def test_workers_are_told_which_runs_are_read(edge: Edge, other: Edge, worker: Bus) -> None:
    async with AsyncExitStack() as stack:
        _, job, _ = await _start(edge, worker, stack)
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
        _, slow, pieces = await _start(edge, worker, stack)
        for _ in range(80):
            await slow.send(piece)
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(edge.client.post(URL, json=STREAM))
            await _play(await take_job(worker), "a", "b")
        assert asked.result().content == _stream("a", "b")
        assert all(reader._size < 4 << 20 for reader in edge.runs._inbox._readers)
        await slow.send(b"[DONE]", end="completed")
        size = sum([len(got) async for got in pieces])

    assert size > 80 * 200_000
