"""Where batches of the log and commands arrive: translated, handled, acked.

What nobody can handle is buried in DEAD.
"""

import time

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bus import Bus
from schemas import subjects
from schemas.commands import decode_command
from schemas.errors import BusError, JanError
from workers.persistence.commander import Commander, DatabaseAway
from workers.persistence.database import Health
from workers.persistence.facts import Fact, to_seconds
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


class Intake:
    """The handler of the projections' subscriber."""

    def __init__(self, projector: Projector, bus: Bus, metrics: Metrics) -> None:
        self._projector = projector
        self._bus = bus
        self._metrics = metrics

    async def on_events(self, messages: list[Msg]) -> None:
        """Project a batch, then ack it. What fails is delivered again."""
        started = time.perf_counter()
        try:
            await self._project(messages)
        except (JanError, NatsError) as error:
            logger.warning("a batch of events is taken again", error=str(error))
            await _give_back(messages)
        except Exception:  # a fault of ours must neither lose events nor end the worker
            logger.exception("a batch of events failed")
            await _give_back(messages)
        else:
            self._metrics.seconds.observe(time.perf_counter() - started)
            self._metrics.events.inc(len(messages))

    async def _project(self, messages: list[Msg]) -> None:
        async def still_at_work() -> None:
            for message in messages:
                await message.in_progress()

        facts = [_to_fact(message) for message in messages]
        for fact, reason in await self._projector.project(facts, still_at_work):
            await self._bury(fact, reason)
        for message in messages:
            await message.ack()

    async def _bury(self, fact: Fact, reason: Exception) -> None:
        await bury(
            self._bus,
            subjects.EVENTS,
            fact.subject,
            fact.data,
            error=str(reason),
            sequence=fact.seq,
            headers=subjects.imported_headers(fact.time) if fact.imported else b"",
        )
        self._metrics.dead.inc()


class CommandIntake:
    """The handler of the commands' subscriber."""

    def __init__(self, commander: Commander, bus: Bus, metrics: Metrics) -> None:
        self._commander = commander
        self._bus = bus
        self._metrics = metrics

    async def on_command(self, message: Msg) -> None:
        """Carry a command out, answer it, ack it. What fails is delivered again."""
        name = message.subject.removeprefix("commands.")
        try:
            command = decode_command(message.data)
            answer = await self._commander.carry_out(name, command)
        except (DatabaseAway, BusError, NatsError) as error:
            logger.warning("a command is taken again", name=name, error=str(error))
            await _give_back([message], _COMMAND_AGAIN_SECONDS)
        except Exception as error:  # a fault of ours, or a body that nobody can read
            logger.exception("a command failed", name=name)
            await self._give_up(message, error)
        else:
            if command.reply_to:
                self._bus.publish(command.reply_to, answer)
            await message.ack()
            self._metrics.commands.labels(name).inc()

    async def _give_up(self, message: Msg, error: Exception) -> None:
        """Bury a command that fails each time. Who waits for it is told by its deadline."""
        if message.metadata.num_delivered < _COMMAND_DELIVERIES:
            await _give_back([message], _COMMAND_AGAIN_SECONDS)
            return
        try:
            sequence = message.metadata.sequence.stream
            data, subject = message.data, message.subject
            await bury(
                self._bus, subjects.COMMANDS, subject, data, error=repr(error), sequence=sequence
            )
            await message.term()
        except (JanError, NatsError):
            await _give_back([message], _COMMAND_AGAIN_SECONDS)


def _to_fact(message: Msg) -> Fact:
    """Take the sequence and the time from the ack's subject, counted from its end.

    `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<seq>.<nth>.<ns>.<pending>`
    and, with a domain, one more token.
    """
    tokens = message.reply.split(".")
    at = 5 if len(tokens) < 11 else 7
    stored = int(tokens[at + 2]) / 1e9
    headers = message.headers or {}
    imported = subjects.IMPORTED in headers
    told = to_seconds(headers.get(subjects.TIME, "")) if imported else None
    return Fact(int(tokens[at]), message.subject, message.data, told or stored, imported)


async def _give_back(messages: list[Msg], seconds: float = _AGAIN_SECONDS) -> None:
    """Ask for what is not acked again later; without a bus it comes back by itself."""
    try:
        for message in messages:
            if not message._ackd:
                await message.nak(delay=seconds)
    except NatsError:
        logger.warning("events come back when their ack is overdue")
