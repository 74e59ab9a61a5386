"""Pulling under generated loads: never more is asked for than can be run, and no queue starves."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import Bus, Message
from tests.support.virtual_time import run_in_virtual_time
from workers.runtime.delivery import Delivery
from workers.runtime.pull import Pull, Queue, pull_jobs

BACKGROUND = "background"


@dataclass
class Request:
    """A request for jobs, as the server keeps it."""

    reply: str
    left: int
    ends: float


class Server:
    """The consumers of a nats-server, and the part of the bus that reaches them."""

    def __init__(self, random: Random, queues: list[str]) -> None:
        self.connected = True
        self.random = random
        self.jobs: dict[str, int] = dict.fromkeys(queues, 0)
        self.requests: dict[str, list[Request]] = {queue: [] for queue in queues}
        self.handlers: dict[str, Callable[[Message], None]] = {}
        self.reconnected: list[Callable[[], None]] = []
        self.inboxes = 0
        self.naks = 0
        self.number = 0

    @property
    def nc(self) -> "Server":
        return self

    def new_inbox(self) -> str:
        self.inboxes += 1
        return f"_INBOX.{self.inboxes}"

    async def subscribe(self, subject: str, on_message: Callable[[Message], None]) -> Any:
        self.handlers[subject] = on_message
        return Unsubscribe(self, subject)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.reconnected.append(callback)
        return lambda: self.reconnected.remove(callback)

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        if subject.startswith("$JS.ACK"):
            self.naks += 1
            return
        loop = asyncio.get_running_loop()
        queue = subject.rsplit(".", 1)[1]
        asked = msgspec.json.decode(data)
        wait = asked.get("expires", 0) / 1e9
        request = Request(reply, asked["batch"], loop.time() + wait)
        self.requests[queue].append(request)
        self.serve(queue)
        loop.call_later(wait, self.expire, queue, request)

    def expire(self, queue: str, request: Request) -> None:
        if request in self.requests[queue]:
            self.requests[queue].remove(request)
            self.send(request, request.reply, "", 408 if request.ends > 0 else 404)

    def add(self, queue: str) -> None:
        self.jobs[queue] += 1
        self.serve(queue)

    def serve(self, queue: str) -> None:
        while self.jobs[queue] and self.requests[queue]:
            self.jobs[queue] -= 1
            request = self.requests[queue].pop(0)
            request.left -= 1
            if request.left:
                self.requests[queue].append(request)
            self.number += 1
            ack = f"$JS.ACK.JOBS.{queue}.1.{self.number}.{self.number}.0.0"
            self.send(request, f"jobs.{queue}", ack, 0)

    def send(self, request: Request, subject: str, reply: str, status: int) -> None:
        handler = self.handlers.get(request.reply.rsplit(".", 1)[0] + ".*")
        if handler is None:
            return
        headers = b"NATS/1.0 %d\r\n\r\n" % status if status else b""
        message = Message(subject.encode(), reply.encode(), headers, b"{}")
        asyncio.get_running_loop().call_soon(handler, message)

    def reconnect(self) -> None:
        for requests in self.requests.values():
            requests.clear()
        for callback in self.reconnected:
            callback()


@dataclass
class Unsubscribe:
    server: Server
    subject: str

    async def unsubscribe(self) -> None:
        self.server.handlers.pop(self.subject, None)


@dataclass
class Load:
    """Runs jobs for a while, and counts."""

    server: Server
    random: Random
    done: dict[str, int] = field(default_factory=dict)
    running: int = 0
    most: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_done(self, jobs: int) -> None:
        while sum(self.done.values()) < jobs:
            self.news.clear()
            await self.news.wait()

    def on_job(self, delivery: Delivery, on_done: Callable[[], None]) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        queue = delivery.reply.split(".")[3]

        def end() -> None:
            self.running -= 1
            self.done[queue] = self.done.get(queue, 0) + 1
            self.news.set()
            on_done()

        asyncio.get_running_loop().call_later(self.random.choice((0.0, 0.01, 0.5)), end)


async def play(pools: int, slots: int, seed: int, reconnects: int) -> None:
    random = Random(seed)
    names = [f"i{number}" for number in range(pools)] + [f"b{number}" for number in range(pools)]
    server = Server(random, names)
    load = Load(server, random)
    queues = [Queue(name, name.startswith("b")) for name in names]
    pull = Pull(cast(Bus, server), queues, lambda: slots, load.on_job, 2.0)
    jobs = 60
    async with pull_jobs(pull):
        await asyncio.sleep(0)
        for number in range(jobs):
            server.add(random.choice(names))
            await asyncio.sleep(random.choice((0.0, 0.0, 0.05)))
            asked = sum(request.left for queue in server.requests.values() for request in queue)
            assert load.running + asked <= slots
            if reconnects and number == jobs // 2:
                server.reconnect()
        await asyncio.wait_for(load.until_done(jobs), 120)
    assert load.most <= slots
    assert not any(server.handlers)


@settings(max_examples=60, deadline=None)
@given(
    pools=st.integers(1, 3),
    slots=st.sampled_from([1, 2, 3, 7, 8, 64]),
    seed=st.integers(0, 2**32),
    reconnects=st.integers(0, 1),
)
def test_all_jobs_are_run_and_never_more_at_once_than_slots(
    pools: int, slots: int, seed: int, reconnects: int
) -> None:
    run_in_virtual_time(lambda: play(pools, slots, seed, reconnects))


async def stand_still() -> None:
    server = Server(Random(0), ["i0", "b0"])
    load = Load(server, Random(0))
    pull = Pull(cast(Bus, server), [Queue("i0", False)], lambda: 8, load.on_job, 2.0)
    async with pull_jobs(pull):
        await asyncio.sleep(0.1)
        (request,) = server.requests["i0"]
        server.jobs["i0"] = 2
        pull._looked -= 10  # as if this process had been frozen since
        server.serve("i0")
        await asyncio.sleep(0.01)
        assert load.running == 0  # the server has given these jobs to others by now
        await asyncio.sleep(3)
        server.add("i0")
        await asyncio.sleep(1)
        assert load.done == {"i0": 1}
    assert request.left == 6


def test_jobs_that_waited_in_the_socket_of_a_frozen_worker_are_not_run() -> None:
    run_in_virtual_time(stand_still)


async def no_job_a_request() -> None:
    server = Server(Random(0), ["i0", "b0"])
    load = Load(server, Random(0))
    asked = 0
    publish = server.publish

    def count(subject: str, data: bytes, reply: str = "") -> None:
        nonlocal asked
        asked += 1
        publish(subject, data, reply)

    server.publish = count  # type: ignore[method-assign]
    pull = Pull(cast(Bus, server), [Queue("i0", False)], lambda: 64, load.on_job, 2.0)
    async with pull_jobs(pull):
        await asyncio.sleep(0)
        for _ in range(500):
            server.add("i0")
            await asyncio.sleep(0.001)
        assert asked < 60


def test_slots_are_asked_for_in_batches() -> None:
    run_in_virtual_time(no_job_a_request)
