"""An edge on a real bus that serves runs and little else, and a worker that a test plays.

async with running_edge(nats, tmp_path) as edge:
    asking = asyncio.create_task(edge.client.post(URL, json=STREAM))
    await play(await take_job(worker), "a", "b")
    assert (await asking).content == stream_of("a", "b")
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
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
from edge.protocol import Protocol
from edge.routes import chat, completions, embeddings
from edge.runs import RunOptions, Runs, open_runs
from edge.stored import Positions, Stored
from schemas import frames, subjects
from schemas.catalogue import Catalogue, Deployment, Model
from schemas.errors import JanError
from tests.support.nats import NatsServer
from tests.support.worker import Job, take_job

MODEL = "jan-simulated"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
STREAM = {**HELLO, "stream": True}
SECRET = b"s" * 32
CATALOGUE = Catalogue([Model(MODEL, 0, "simulated", [Deployment("simulated/m", "simulated")])])
ROUTES = [*chat.ROUTES, *completions.ROUTES, *embeddings.ROUTES]
URL = "/v1/chat/completions"


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


def chunk(text: str) -> bytes:
    return msgspec.json.encode({"choices": [{"delta": {"content": text}}]})


async def play(job: Job, *texts: str) -> None:
    """Serve a streamed run from its beginning to its end."""
    await job.fence()
    for text in texts:
        await job.send(chunk(text))
    await job.send(b"[DONE]", end="completed")
    job.ack()


def stream_of(*texts: str, start: int = 0) -> bytes:
    """What the client of `play` gets."""
    events = [*map(chunk, texts), b"[DONE]"]
    return b"".join([frames.sse(index, event) for index, event in enumerate(events)][start:])


async def start(
    edge: Edge, worker: Bus, stack: AsyncExitStack, **headers: str
) -> tuple[httpx.Response, Job, AsyncIterator[bytes]]:
    """Open a stream and send its first frame; the client has read that."""
    asking = asyncio.create_task(stack.enter_async_context(edge.post(STREAM, **headers)))
    job = await take_job(worker)
    await job.fence()
    await job.send(chunk("a"))
    response = await asking
    pieces = response.aiter_bytes()
    assert await anext(pieces) == frames.sse(0, chunk("a"))
    return response, job, pieces


async def settled(edge: Edge) -> None:
    """Wait until the edge has decided about the runs that its clients have left."""
    while len(edge.runs):  # noqa: ASYNC110 (what is waited for is another task's doing)
        await asyncio.sleep(0)
    while edge.runs._tasks:
        await asyncio.wait(edge.runs._tasks)
