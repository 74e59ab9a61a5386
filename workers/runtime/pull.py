"""Pulling jobs: never more than can be run now, interactive ones first.

Slots are asked for in batches and long before they are used: an idle worker has asked for all of
its slots, and asks again when a quarter of them is free and not asked for, not once a job. Each
request has an inbox of its own, so that what the server says of it (404 nothing there, 408 over,
409 gone) is told from what it says of others.

A request lasts for less than the server's patience with a silent worker: jobs that a frozen worker
has lost are not given to its own old requests. After a gap as long as that patience, what still
arrives is not believed, as the server has given it to others by then.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from bus import Bus, Message, Subscription
from schemas import subjects
from workers.runtime import beside
from workers.runtime.delivery import Delivery, to_delivery

logger = structlog.get_logger()

_PATIENCE_SHARE = 0.6  # of ack_wait, for which a request waits for jobs
_BRIEF = 0.5  # seconds that one waits if slots are few, so that no queue holds one for long
_FEW = 8
_OVERDUE = 2.0  # seconds after its end, in which the server has to say that it is over
_LOOK = 0.4
_AFTER_RECONNECT = 0.5  # heartbeats of running jobs go first
_AFTER_REFUSAL = 0.5
_SHARE = 4  # ask again when this part of the slots is free and not asked for
_CROWD = 16  # a smaller part of the slots waits a moment for others, under full load
_CROWD_WAIT = 0.005
_INBOXES = 4  # requests at the same time, for each queue

_NANOSECONDS = 1_000_000_000
_OVER = (404, 408)

OnJob = Callable[[Delivery, Callable[[], None]], None]


@dataclass(slots=True, eq=False)
class Queue:
    """One consumer that jobs are pulled from."""

    consumer: str
    background: bool
    asked: int = 0  # jobs that outstanding requests may still bring
    running: int = 0
    quiet: bool = False  # the last request brought nothing
    not_before: float = 0.0


@dataclass(slots=True, eq=False)
class Inbox:
    """Where the answers to one request come in; used for one after the other."""

    subject: str
    subscription: Subscription | None = None
    number: int = 0  # of the request
    queue: Queue | None = None
    left: int = 0
    brought: bool = False
    glance: bool = False  # the request does not wait
    ends: float = 0.0
    trusted: bool = True


@dataclass(slots=True)
class Pull:
    """Keeps as many runs going from the queues as `capacity` says, as far as there are jobs.

    `capacity` is asked again and again: it may change. `on_job` is called with each job and what to
    call when its slot is free again.
    """

    bus: Bus
    queues: Sequence[Queue]
    capacity: Callable[[], int]
    on_job: OnJob
    ack_wait: float
    running: int = 0
    asked: int = 0
    _inboxes: list[Inbox] = field(default_factory=list)
    _stopped: bool = False
    _turn: int = 0
    _soon: asyncio.TimerHandle | None = None
    _looked: float = 0.0
    _broken: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def slots(self) -> int:
        """Runs at the same time, as of now."""
        return self.capacity()

    def serve(self, queues: Sequence[Queue]) -> None:
        """Pull from these queues from now on; jobs of the others that run here go on."""
        before = {queue.consumer: queue for queue in self.queues}
        if list(before) != [queue.consumer for queue in queues]:
            self.queues = [before.get(queue.consumer, queue) for queue in queues]
            self._broken.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        forget = self.bus.on_reconnect(self._broken.set)
        try:
            while True:
                self._broken.clear()
                await self._open_inboxes()
                self._fill()
                await self._until_broken()
                await asyncio.sleep(_AFTER_RECONNECT)
        finally:
            forget()
            self._stopped = True
            await self._close_inboxes()

    async def _until_broken(self) -> None:
        """Return once outstanding requests can't be relied on."""
        self._looked = asyncio.get_running_loop().time()
        while not self._broken.is_set():
            try:
                await asyncio.wait_for(self._broken.wait(), _LOOK)
            except TimeoutError:
                self._look()
                self._fill()

    def _look(self) -> None:
        """Find requests that are over, but nobody said so."""
        now = asyncio.get_running_loop().time()
        self._distrust_after_a_gap(now)
        self._looked = now
        if not self.bus.connected:
            return
        overdue = [inbox for inbox in self._inboxes if inbox.queue and now > inbox.ends + _OVERDUE]
        if overdue:
            logger.warning("requests for jobs got no answer", count=len(overdue))
            self._broken.set()

    def _distrust_after_a_gap(self, now: float) -> None:
        """If this process stood still, what it finds in its socket is long given to others."""
        if now - self._looked > self.ack_wait and not self._broken.is_set():
            logger.warning("stood still", seconds=round(now - self._looked, 1))
            self._broken.set()
            for inbox in self._inboxes:
                inbox.trusted = False

    async def _open_inboxes(self) -> None:
        """Use new ones: the server may still send to those of requests that we gave up."""
        await self._close_inboxes()
        for _ in range(_INBOXES * len(self.queues)):
            inbox = Inbox(self.bus.nc.new_inbox())

            def on_message(message: Message, inbox: Inbox = inbox) -> None:
                self._on_message(inbox, message)

            inbox.subscription = await self.bus.subscribe(f"{inbox.subject}.*", on_message)
            self._inboxes.append(inbox)

    async def _close_inboxes(self) -> None:
        inboxes, self._inboxes = self._inboxes, []
        for inbox in inboxes:
            self._end(inbox)
            if inbox.subscription is not None:
                await inbox.subscription.unsubscribe()

    def _fill_soon(self) -> None:
        """Slots that become free one after the other are asked for together."""
        if self.slots - self.running - self.asked >= self.slots // _CROWD:
            self._fill()
        elif self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(_CROWD_WAIT, self._fill)

    def _fill(self) -> None:
        """Ask for as much as can be run now, if it is worth a request."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        free = self.slots - self.running - self.asked
        if free <= 0 or self._stopped or self._broken.is_set() or not self.bus.connected:
            return
        now = asyncio.get_running_loop().time()
        unasked = [queue for queue in self.queues if self._may_ask(queue, now)]
        if free < len(unasked):
            self._take_turns(unasked, free)
            return
        for queue in unasked:
            if queue.background:
                self._ask(queue, 1)
        self._share_out([queue for queue in self.queues if not queue.background])

    def _may_ask(self, queue: Queue, now: float) -> bool:
        """Whether nothing is asked of the queue, and something should be."""
        if queue.asked or now < queue.not_before:
            return False
        return not queue.background or self._has_room_for_background()

    def _take_turns(self, unasked: list[Queue], free: int) -> None:
        """Too few slots to wait at every queue: look at each for a moment.

        Background queues have every eighth turn while interactive ones are busy.
        """
        for _ in range(free):
            self._turn += 1
            busy = [queue for queue in unasked if not queue.background and not queue.quiet]
            choice = busy if busy and self._turn % 8 else unasked
            queue = choice[self._turn % len(choice)]
            if not queue.asked:
                self._ask(queue, 1, turn=True)

    def _has_room_for_background(self) -> bool:
        """Background runs leave half of the slots to interactive ones."""
        running = sum(queue.running + queue.asked for queue in self.queues if queue.background)
        return running < max(1, self.slots // 2)

    def _share_out(self, queues: list[Queue]) -> None:
        """Divide the free slots among interactive queues; quiet ones get few."""
        free = self.slots - self.running - self.asked
        busy = [queue for queue in queues if not queue.quiet] or queues
        share = max(1, (free + sum(queue.asked for queue in busy)) // len(busy))
        worth = max(1, self.slots // _SHARE // len(busy))
        for queue in sorted(queues, key=lambda queue: queue.asked):
            wanted = share if queue in busy else max(1, share // 16)
            count = min(wanted - queue.asked, self.slots - self.running - self.asked)
            if count > 0 and (not queue.asked or count >= worth):
                self._ask(queue, count)

    def _ask(self, queue: Queue, count: int, *, turn: bool = False) -> None:
        """Send a request, if there is an inbox for it."""
        now = asyncio.get_running_loop().time()
        inbox = next((inbox for inbox in self._inboxes if inbox.queue is None), None)
        if inbox is None or now < queue.not_before:
            return
        inbox.number += 1
        inbox.queue = queue
        inbox.left = count
        inbox.brought = False
        inbox.glance = turn and queue.background
        wait = _BRIEF if turn or self.slots < _FEW else self.ack_wait * _PATIENCE_SHARE
        inbox.ends = now + wait
        queue.asked += count
        self.asked += count
        self.bus.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{subjects.JOBS}.{queue.consumer}",
            _request(count, 0.0 if inbox.glance else wait),
            reply=f"{inbox.subject}.{inbox.number}",
        )

    def _on_message(self, inbox: Inbox, message: Message) -> None:
        now = asyncio.get_running_loop().time()
        self._distrust_after_a_gap(now)
        if not inbox.trusted:
            return
        if not message.reply:
            self._on_status(inbox, message, now)
            return
        queue = inbox.queue
        if queue is None:
            self._on_uncalled(message)
            return
        inbox.brought = True
        inbox.left -= 1
        queue.asked -= 1
        self.asked -= 1
        if inbox.left == 0:
            self._end(inbox)
        self._begin(queue, message)

    def _on_uncalled(self, message: Message) -> None:
        """A job of a request that was given up: run it if there is room, or pass it on."""
        if self.running + self.asked < self.slots and not self._stopped:
            self._begin(self.queues[0], message)
        else:
            self.bus.publish(message.reply.decode(), b"-NAK")

    def _begin(self, queue: Queue, message: Message) -> None:
        queue.quiet = False
        queue.running += 1
        self.running += 1

        def on_done() -> None:
            queue.running -= 1
            self.running -= 1
            self._fill_soon()

        self.on_job(to_delivery(self.bus, message), on_done)

    def _on_status(self, inbox: Inbox, message: Message, now: float) -> None:
        queue = inbox.queue
        status = message.status
        of_this = message.subject.endswith(b".%d" % inbox.number)
        if queue is None or not of_this:
            return
        queue.quiet = not inbox.brought
        if inbox.glance and not inbox.brought:
            queue.not_before = now + _BRIEF
        elif status not in _OVER:
            # The consumer is not there (503), has a new leader, or has too many waiting (409).
            queue.not_before = now + _AFTER_REFUSAL
            logger.debug("request for jobs refused", consumer=queue.consumer, status=status)
        self._end(inbox)
        self._fill()

    def _end(self, inbox: Inbox) -> None:
        """A request is over: what it did not bring is not outstanding any more."""
        if inbox.queue is not None:
            inbox.queue.asked -= inbox.left
            self.asked -= inbox.left
            inbox.queue = None
            inbox.left = 0


def _request(count: int, wait: float) -> bytes:
    if not wait:
        return b'{"batch":%d,"no_wait":true}' % count
    return b'{"batch":%d,"expires":%d}' % (count, int(wait * _NANOSECONDS))


@asynccontextmanager
async def pull_jobs(pull: Pull) -> AsyncIterator[None]:
    """Pull for the context's life; nothing is outstanding after it."""
    async with beside(pull.run()):
        yield
