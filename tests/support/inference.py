"""A real inference worker in a test's own process, and a desk that gives it jobs and reads runs."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bus import Bus, open_bus
from schemas import frames, ids, subjects
from schemas.commands import RunInference, Target, encode
from schemas.events import RunFinished, decode_run_finished
from schemas.providers import Providers, SimulatedOptions, read_providers
from tests.support import reading
from tests.support.nats import NatsServer
from workers.inference.app import Inference, open_inference
from workers.inference.settings import InferenceSettings
from workers.runtime import create_registry

EDGE = "edge-1"
MODEL = "jan-simulated"


def simulated(**options: Any) -> Providers:
    """The simulated model, obeying cues, without pauses unless they are asked for."""
    options = {"cues": True, "ttft_ms": 0, "token_ms": 0} | options
    provider = {
        "name": "simulated",
        "kind": "simulated",
        "models": [{"id": MODEL}],
        "options": SimulatedOptions(**options).model_dump(),
    }
    return read_providers(msgspec.json.encode({"providers": [provider]}).decode())


class Reading(reading.Stored):
    """What a reader has of a run."""

    @property
    def text(self) -> bytes:
        """What a client gets."""
        return b"".join(frame.data for frame in self.data)

    @property
    def commit(self) -> frames.Commit:
        return frames.decode_commit(self.data[-1].trailer)


@dataclass
class Desk:
    """Gives jobs to the workers, as an edge does."""

    bus: Bus
    observer: Bus

    async def submit(
        self,
        text: str = "hello",
        *,
        stream: bool = True,
        targets: list[Target] | None = None,
        deadline: float = 60.0,
        background: bool = False,
        run_id: str = "",
        kind: Any = "chat",
        **body: Any,
    ) -> RunInference:
        """Put a job into the queue."""
        request = {"model": MODEL, "messages": [{"role": "user", "content": text}], **body}
        if kind == "embedding":
            request = {"model": MODEL, "input": text, **body}
        now = time.time()
        targets = targets or [Target(f"simulated/{MODEL}", "simulated")]
        job = RunInference(
            run_id=run_id or ids.new_run_id(),
            kind=kind,
            edge=EDGE,
            principal="somebody",
            model=MODEL,
            targets=targets,
            created=int(now),
            deadline=now + deadline,
            request_id="req_1",
            stream=stream,
            background=background,
            request=msgspec.Raw(msgspec.json.encode(request | {"stream": stream})),
        )
        await self.send(job)
        return job

    async def send(self, job: RunInference, step: int = 0) -> None:
        """Put this very job into the queue; another `step` makes the server take it again."""
        priority = subjects.BACKGROUND if job.background else subjects.INTERACTIVE
        await self.bus.store(
            subjects.inference_job(job.targets[0].pool, priority),
            encode(job),
            msg_id=f"JOBS:inference:{job.run_id}:{step}",
        )

    async def cancel(self, run_id: str) -> None:
        """Cancel a run."""
        await reading.cancel(self.bus, run_id)

    async def read(self, run_id: str) -> Reading:
        """Read what is stored of a run."""
        return await reading.read(self.bus, EDGE, run_id, Reading())

    async def until(self, run_id: str, frames_stored: int = 0, timeout: float = 20.0) -> Reading:
        """Read until so many frames are stored; by default until the run's END."""

        def is_enough(stored: Reading) -> bool:
            reached = frames_stored and stored.fold.next >= frames_stored
            return bool(reached or stored.fold.ended)

        return await reading.read_until(self.bus, EDGE, run_id, Reading, is_enough, timeout)

    async def finished(self, run_id: str) -> list[RunFinished]:
        """The log's RunFinished of a run."""
        found = []
        subject = subjects.run_event("finished", run_id)
        async for stored in self.observer.read_subject(subjects.EVENTS, subject):
            event = decode_run_finished(stored.data)
            if event.run_id == run_id:
                found.append(event)
        return found

    async def waiting(self) -> int:
        """How many jobs are in the queue, those in progress included."""
        info = await self.observer.ask("$JS.API.STREAM.INFO.JOBS", b"")
        return int(msgspec.json.decode(info)["state"]["messages"])


@asynccontextmanager
async def open_desk(server: NatsServer) -> AsyncIterator[Desk]:
    """Connect as an edge does, and as an operator who may look at everything."""
    async with reading.connected(server, EDGE) as (bus, observer):
        yield Desk(bus, observer)


@asynccontextmanager
async def running_worker(
    server: NatsServer, providers: Providers | None = None, name: str = "inference-1", **given: Any
) -> AsyncIterator[Inference]:
    """Run a worker for the context's life; leaving it drains."""
    given = {"drain_timeout": 5.0, "data": Path("/nonexistent"), "_env_file": None} | given
    settings = InferenceSettings(nats_url=server.url("inference"), name=name, **given)
    async with (
        open_bus(server.url("inference"), name=name) as bus,
        open_inference(settings, providers or simulated(), bus, create_registry()) as inference,
    ):
        yield inference
