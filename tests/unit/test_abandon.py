"""Runs that nobody reads any more."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from bus import Bus, Message
from schemas.errors import Cancelled
from tests.support.virtual_time import run_in_virtual_time
from workers.runtime.abandon import Abandonment
from workers.runtime.runs import Runs


class Edges:
    """The bus, with edges that read some runs."""

    def __init__(self, read: set[str]) -> None:
        self.connected = True
        self.read = read
        self.replies: set[str] = set()
        self.asked: list[tuple[str, list[str]]] = []
        self.nc = SimpleNamespace(new_inbox=lambda: "_INBOX.1")

    async def subscribe(self, _: str, on_message: Callable[[Message], None]) -> Any:
        self._answer = on_message
        return SimpleNamespace(unsubscribe=partial(asyncio.sleep, 0))

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        assert reply not in self.replies, "the bus lets an edge answer once on a subject"
        self.replies.add(reply)
        run_ids = msgspec.json.decode(data)
        self.asked.append((subject, run_ids))
        claimed = msgspec.json.encode([run_id for run_id in run_ids if run_id in self.read])
        self._answer(Message(reply.encode(), b"", b"", claimed))


class Run:
    def __init__(self, run_id: str, *, background: bool = False, stored: bool = False) -> None:
        self.job = SimpleNamespace(
            run_id=run_id,
            edge="edge-1",
            background=background,
            stored=stored,
            parent=None,
        )
        self.unclaimed = 0
        self.stopped: list[Exception] = []
        self.stop = self.stopped.append


class Stand(list[Run]):
    """Runs in progress."""

    def find(self, run_id: str) -> Run | None:
        return next((run for run in self if run.job.run_id == run_id), None)

    def __iter__(self) -> Iterator[Run]:
        return super().__iter__()


def watch(edges: Edges, runs: Stand, seconds: float) -> None:
    async def go() -> None:
        watching = asyncio.create_task(Abandonment(cast(Bus, edges), cast(Runs, runs)).watch())
        await asyncio.sleep(seconds)
        watching.cancel()

    run_in_virtual_time(go)


def test_a_run_that_no_edge_claims_is_cancelled() -> None:
    run = Run("run_a")
    watch(Edges(set()), Stand([run]), 29)
    assert not run.stopped
    run = Run("run_a")
    watch(Edges(set()), Stand([run]), 41)
    assert isinstance(run.stopped[0], Cancelled)
    assert run.stopped[0].wire_code == "abandoned"


def test_a_run_with_readers_goes_on() -> None:
    run, other = Run("run_a"), Run("run_b")
    edges = Edges({"run_a"})
    watch(edges, Stand([run, other]), 61)
    assert not run.stopped
    assert other.stopped
    assert edges.asked[0] == ("edges.edge-1.alive", ["run_a", "run_b"])


def test_background_runs_need_no_readers() -> None:
    run = Run("run_a", background=True)
    watch(Edges(set()), Stand([run]), 100)
    assert not run.stopped


def test_stored_runs_need_no_readers() -> None:
    run = Run("run_a", stored=True)
    watch(Edges(set()), Stand([run]), 100)
    assert not run.stopped


def test_nobody_is_abandoned_while_the_bus_is_away() -> None:
    run = Run("run_a")
    edges = Edges(set())
    edges.connected = False
    watch(edges, Stand([run]), 100)
    assert not run.stopped
