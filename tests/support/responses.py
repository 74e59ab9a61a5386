"""A real worker of the loop in a test's own process, and who asks it and reads."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from bus import Bus, open_bus
from schemas import frames, ids, subjects
from schemas.commands import RunInference, Target, Webhook, encode
from schemas.history import History
from schemas.responses.fold import ResponseFold
from tests.support import reading
from tests.support.inference import EDGE, MODEL
from tests.support.nats import NatsServer
from workers.responses.app import Work, open_worker
from workers.responses.settings import ResponsesSettings
from workers.runtime import create_registry


@dataclass
class Told:
    """What a reader makes of a response: its fold, and its events with their numbers."""

    fold: ResponseFold
    events: list[dict[str, Any]]

    @property
    def response(self) -> dict[str, Any]:
        """The object that its last event carries."""
        found: dict[str, Any] = self.events[-1]["response"]
        return found

    @property
    def types(self) -> list[str]:
        """The events' types, in order."""
        return [event["type"] for event in self.events]


@dataclass
class Client:
    """Asks for responses as an edge does, and reads them as any reader does."""

    bus: Bus
    observer: Bus

    async def create(self, asked: str = "hello", /, **given: Any) -> str:
        """Put a response into the queue; return its run's id."""
        job = to_job(asked, **given)
        await self.send(job)
        return job.run_id

    async def send(self, job: RunInference, step: int = 0) -> None:
        """Put this very job into the queue."""
        priority = subjects.BACKGROUND if job.background else subjects.INTERACTIVE
        await self.bus.store(
            subjects.response_job(priority),
            encode(job),
            msg_id=f"JOBS:response:{job.run_id}:{step}",
        )

    async def cancel(self, run_id: str) -> None:
        """Cancel a response."""
        await reading.cancel(self.bus, run_id)

    async def until(
        self, run_id: str, enough: Callable[[Told], bool], timeout: float = 20.0
    ) -> Told:
        """Read until it is enough."""
        until = time.time() + timeout
        while time.time() < until:
            told = await self.read(run_id)
            if enough(told):
                return told
        raise TimeoutError(run_id)

    async def read(self, run_id: str, after: int = -1) -> Told:
        """Read what is stored of a response."""
        fold = ResponseFold(run_id, after)
        history = await self._history(run_id)
        for entry in history.chunks:
            fold.feed(entry)
            if fold.step is not None:
                step = await self._history(fold.step.run_id)
                for chunk in step.chunks:
                    fold.hear(chunk)
                if step.commit is None:
                    break
                commit = step.commit
                fold.end_step(commit.status, commit.finish_reason, commit.usage)
        return Told(fold, to_events(fold.take()))

    async def until_ended(self, run_id: str, timeout: float = 20.0) -> Told:
        """Read once the response has ended."""
        until = time.time() + timeout
        while time.time() < until:
            history = await self._history(run_id)
            if history.ended:
                return await self.read(run_id)
        raise TimeoutError(run_id)

    async def _history(self, run_id: str) -> History:
        fold, history = frames.Fold(), History()
        anywhere = subjects.frames_anywhere(run_id)
        async for stored in self.observer.read_subject(subjects.TOKENS, anywhere):
            history.read(fold, stored.seq, stored.data)
        return history


def to_job(
    asked: str, /, *, deadline: float = 60.0, webhook: str | None = None, **body: Any
) -> RunInference:
    """A response's job as an edge makes it; it has `deadline` seconds."""
    now = time.time()
    return RunInference(
        run_id=ids.new_run_id(),
        kind="response",
        edge=EDGE,
        principal="somebody",
        model=MODEL,
        targets=[Target(f"simulated/{MODEL}", "simulated")],
        created=int(now),
        deadline=now + deadline,
        request_id="req_1",
        stream=True,
        background=bool(body.get("background")),
        store=body.get("store", True),
        webhook=Webhook(webhook) if webhook is not None else None,
        request=msgspec.Raw(encode({"model": MODEL, "input": asked} | body)),
    )


def to_events(told: bytes) -> list[dict[str, Any]]:
    """Read server-sent events, each with its number checked against its id."""
    found = []
    for block in told.decode().split("\n\n")[:-1]:
        kind, number, data = block.split("\n", 2)
        event = msgspec.json.decode(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        assert number == f"id: {event['sequence_number']}"
        found.append(event)
    return found


@asynccontextmanager
async def serving(
    server: NatsServer, name: str = "responses-1", **given: Any
) -> AsyncIterator[Work]:
    """Run a worker of the loop for the context's life."""
    settings = ResponsesSettings(nats_url=server.url("responses"), name=name, **given)
    async with (
        open_bus(server.url("responses"), name=name) as bus,
        open_worker(settings, bus, create_registry()) as work,
    ):
        yield work


@asynccontextmanager
async def open_client(server: NatsServer) -> AsyncIterator[Client]:
    """Ask as an edge, and look on as an operator."""
    async with reading.connected(server, EDGE) as (bus, observer):
        yield Client(bus, observer)
