"""Where batches of the log, commands and questions arrive: translated, handled, acked or answered.

What nobody can handle is buried in DEAD.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bus import Batches, Bus, Delivery, Message
from schemas import subjects
from schemas.commands import decode_command
from schemas.errors import BusError, JanError, Unavailable
from schemas.queries import encode_failure
from workers.persistence.answers import Answers
from workers.persistence.commander import Commander, DatabaseAway
from workers.persistence.database import Health, describe
from workers.persistence.facts import Fact, to_fact
from workers.persistence.projector import Projector
from workers.runtime import bury

logger = structlog.get_logger()

_PAUSE_SECONDS: Final = 0.03  # between the beginnings of two batches: each costs a commit
_AGAIN_SECONDS: Final = 5.0
_COMMAND_AGAIN_SECONDS: Final = 0.5  # somebody waits
_COMMAND_DELIVERIES: Final = 5  # of a command that fails by a fault of ours
_EVENT_DELIVERIES: Final = 5  # of an event that does
_QUESTIONS: Final = 1000  # at once: who asks one more would not wait for its answer


class Metrics:
    """What can be watched of the projection."""

    def __init__(self, registry: CollectorRegistry, health: Health) -> None:
        self.events = Counter(
            "jan_projected_events", "Events written to the database", registry=registry
        )
        self.dead = Counter("jan_dead_events", "Events that can't be projected", registry=registry)
        self.commands = Counter(
            "jan_commands", "Commands that were answered", ["name"], registry=registry
        )
        self.seconds = Histogram(
            "jan_projection_batch_seconds", "Time that a batch takes", registry=registry
        )
        self._answers = Counter(
            "jan_answers", "Questions that were answered", ["source"], registry=registry
        )
        up = Gauge("jan_database_up", "Whether the database answers", registry=registry)
        up.set_function(lambda: health.state == "ok")

    def note_answer(self, source: str) -> None:
        """The database or its replica has answered."""
        self._answers.labels(source).inc()


class Intake:
    """What takes batches of the log in. `size`: events of one batch at most."""

    def __init__(self, projector: Projector, bus: Bus, metrics: Metrics, size: int) -> None:
        self.batches = Batches(size, _PAUSE_SECONDS, self.on_events)
        self._projector = projector
        self._bus = bus
        self._metrics = metrics

    async def on_events(self, deliveries: list[Delivery]) -> None:
        """Project a batch, then ack it. What fails is delivered again."""
        started = time.perf_counter()
        try:
            await self._project(deliveries)
        except JanError as error:
            logger.warning("a batch of events is taken again", error=str(error))
            _give_back(deliveries)
        except Exception as error:  # a fault of ours must neither lose events nor end the worker
            logger.exception("a batch of events failed", events=len(deliveries))
            await self._without_others(deliveries, error)
        else:
            self._metrics.seconds.observe(time.perf_counter() - started)
            self._metrics.events.inc(len(deliveries))

    async def _project(self, deliveries: list[Delivery]) -> None:
        facts = [to_fact(delivery) for delivery in deliveries]
        still_at_work = partial(self._still_at_work, deliveries)
        for fact, reason in await self._projector.project(facts, still_at_work):
            await self._bury(fact, reason)
        for delivery in deliveries:
            delivery.ack()

    async def _still_at_work(self, deliveries: list[Delivery]) -> None:
        for delivery in (*deliveries, *self.batches.waiting):
            delivery.in_progress()

    async def _without_others(self, deliveries: list[Delivery], error: Exception) -> None:
        """Find the event that the fault is about, so that no other waits for it; then bury it."""
        if len(deliveries) > 1:
            middle = len(deliveries) // 2
            for half in (deliveries[:middle], deliveries[middle:]):
                await self.on_events(half)
            return
        [delivery] = deliveries
        if delivery.nth < _EVENT_DELIVERIES:
            _give_back(deliveries)
            return
        fact = to_fact(delivery)
        try:
            await self._projector.pass_over(fact, partial(self._still_at_work, deliveries))
            await self._bury(fact, error)
        except JanError:
            _give_back(deliveries)
        else:
            delivery.ack()

    async def _bury(self, fact: Fact, reason: Exception) -> None:
        await bury(
            self._bus,
            subjects.EVENTS,
            fact.subject,
            fact.data,
            error=describe(reason),
            sequence=fact.seq,
            headers=subjects.imported_headers(fact.time) if fact.imported else b"",
        )
        self._metrics.dead.inc()


class CommandIntake:
    """What carries commands out as they are delivered, several at a time."""

    def __init__(self, commander: Commander, bus: Bus, metrics: Metrics) -> None:
        self._commander = commander
        self._bus = bus
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, delivery: Delivery, done: Callable[[], None]) -> None:
        """Carry a command out beside others; `done` is called when it is settled."""
        task = asyncio.create_task(self.on_command(delivery))
        self._running.add(task)

        def on_end(ended: asyncio.Task[None]) -> None:
            self._running.discard(ended)
            done()

        task.add_done_callback(on_end)

    async def drain(self, seconds: float) -> None:
        """Wait for what is under way."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    async def on_command(self, delivery: Delivery) -> None:
        """Carry a command out, answer it, ack it. What fails is delivered again."""
        name = delivery.subject.removeprefix("commands.")
        try:
            command = decode_command(delivery.data)
            answer = await self._commander.carry_out(name, command)
        except (DatabaseAway, BusError) as error:
            logger.warning("a command is taken again", name=name, error=str(error))
            delivery.again(_COMMAND_AGAIN_SECONDS)
        except Exception as error:  # a fault of ours, or a body that nobody can read
            logger.exception("a command failed", name=name)
            await self._give_up(delivery, error)
        else:
            if command.reply_to:
                self._bus.publish(command.reply_to, answer)
            delivery.ack()  # after the answer, on the same line: not acked without it
            self._metrics.commands.labels(name).inc()

    async def _give_up(self, delivery: Delivery, error: Exception) -> None:
        """Bury a command that fails each time. Who waits for it is told by its deadline."""
        if delivery.nth < _COMMAND_DELIVERIES:
            delivery.again(_COMMAND_AGAIN_SECONDS)
            return
        try:
            await bury(
                self._bus,
                subjects.COMMANDS,
                delivery.subject,
                delivery.data,
                error=repr(error),
                sequence=delivery.seq,
            )
        except JanError:
            delivery.again(_COMMAND_AGAIN_SECONDS)
        else:
            delivery.end()


class QuestionIntake:
    """What answers questions as they arrive."""

    def __init__(self, answers: Answers, bus: Bus) -> None:
        self._answers = answers
        self._bus = bus
        self._running: set[asyncio.Task[None]] = set()

    def on_question(self, message: Message) -> None:
        """Answer it beside others; refuse it if too many are asked already."""
        if len(self._running) >= _QUESTIONS:
            failure = Unavailable("too many questions are waiting", retry_after=1)
            self._bus.publish(message.reply.decode(), encode_failure(failure))
            return
        task = asyncio.create_task(self._answer(message))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def drain(self, seconds: float) -> None:
        """Answer those that have come, for so long."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    async def _answer(self, message: Message) -> None:
        answer = await self._answers.answer(message.subject.decode(), message.data)
        self._bus.publish(message.reply.decode(), answer)


def _give_back(deliveries: list[Delivery]) -> None:
    """Ask for what is not acked again later; without a bus it comes back by itself."""
    for delivery in deliveries:
        delivery.again(_AGAIN_SECONDS)
