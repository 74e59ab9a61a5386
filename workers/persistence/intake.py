"""Where batches of the log and commands arrive: translated, handled, acked.

What nobody can handle is buried in DEAD.
"""

import time

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bus import Bus, Delivery, Pull
from schemas import subjects
from schemas.commands import decode_command
from schemas.errors import BusError, JanError
from workers.persistence.commander import Commander, DatabaseAway
from workers.persistence.database import Health
from workers.persistence.facts import to_fact
from workers.persistence.projector import Projector
from workers.runtime import bury

logger = structlog.get_logger()

_AGAIN_SECONDS = 5.0
_COMMAND_AGAIN_SECONDS = 0.5  # somebody waits
_COMMAND_DELIVERIES = 5  # of a command that fails by a fault of ours


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
        up = Gauge("jan_database_up", "Whether the database answers", registry=registry)
        up.set_function(lambda: health.state == "ok")


class LogIntake:
    """Takes what the log has into the database, batch after batch."""

    def __init__(self, projector: Projector, bus: Bus, metrics: Metrics) -> None:
        self._projector = projector
        self._bus = bus
        self._metrics = metrics

    async def run(self, pull: Pull) -> None:
        """Go on until cancelled. While a batch is written, the next one gathers."""
        while True:
            await self.on_events(await pull.next())

    async def on_events(self, deliveries: list[Delivery]) -> None:
        """Project a batch, then ack it. What fails is delivered again."""
        started = time.perf_counter()
        try:
            await self._project(deliveries)
        except JanError as error:
            logger.warning("a batch of events is taken again", error=str(error))
            _give_back(deliveries, _AGAIN_SECONDS)
        except Exception:  # a fault of ours must neither lose events nor end the worker
            logger.exception("a batch of events failed")
            _give_back(deliveries, _AGAIN_SECONDS)
        else:
            self._metrics.seconds.observe(time.perf_counter() - started)
            self._metrics.events.inc(len(deliveries))

    async def _project(self, deliveries: list[Delivery]) -> None:
        async def still_at_work() -> None:
            for delivery in deliveries:
                delivery.still_at_work()

        facts = [to_fact(delivery) for delivery in deliveries]
        for fact, reason in await self._projector.project(facts, still_at_work):
            await bury(
                self._bus,
                subjects.EVENTS,
                fact.subject,
                fact.data,
                error=str(reason),
                sequence=fact.seq,
            )
            self._metrics.dead.inc()
        for delivery in deliveries:
            delivery.ack()


class CommandIntake:
    """Has commands carried out, one after the other."""

    def __init__(self, commander: Commander, bus: Bus, metrics: Metrics) -> None:
        self._commander = commander
        self._bus = bus
        self._metrics = metrics

    async def run(self, pull: Pull) -> None:
        """Go on until cancelled."""
        while True:
            for delivery in await pull.next():
                await self.on_command(delivery)

    async def on_command(self, delivery: Delivery) -> None:
        """Carry a command out, answer it, ack it. What fails is delivered again."""
        name = delivery.subject.removeprefix("commands.")
        try:
            command = decode_command(delivery.data)
            answer = await self._commander.carry_out(name, command)
        except (DatabaseAway, BusError) as error:
            logger.warning("a command is taken again", name=name, error=str(error))
            delivery.give_back(_COMMAND_AGAIN_SECONDS)
        except Exception as error:  # a fault of ours, or a body that nobody can read
            logger.exception("a command failed", name=name)
            await self._give_up(delivery, error)
        else:
            if command.reply_to:
                self._bus.publish(command.reply_to, answer)
            delivery.ack()
            self._metrics.commands.labels(name).inc()

    async def _give_up(self, delivery: Delivery, error: Exception) -> None:
        """Bury a command that fails each time. Who waits for it is told by its deadline."""
        if delivery.nth < _COMMAND_DELIVERIES:
            delivery.give_back(_COMMAND_AGAIN_SECONDS)
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
            delivery.give_back(_COMMAND_AGAIN_SECONDS)
        else:
            delivery.end()


def _give_back(deliveries: list[Delivery], seconds: float) -> None:
    for delivery in deliveries:
        delivery.give_back(seconds)
