"""Where batches of the log arrive: translated, projected, acked; what is unusable is buried."""

import time

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bus import Bus
from schemas import subjects
from schemas.errors import JanError
from workers.persistence.database import Health
from workers.persistence.projections.runs import Fact
from workers.persistence.projector import Projector
from workers.runtime import bury

logger = structlog.get_logger()

_AGAIN_SECONDS = 5.0


class Metrics:
    """What can be watched of the projection."""

    def __init__(self, registry: CollectorRegistry, health: Health) -> None:
        self.events = Counter(
            "jan_projected_events", "Events written to the database", registry=registry
        )
        self.dead = Counter("jan_dead_events", "Events that can't be projected", registry=registry)
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

    async def on_run_events(self, messages: list[Msg]) -> None:
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
        )
        self._metrics.dead.inc()


def _to_fact(message: Msg) -> Fact:
    """Take the sequence and the time from the ack's subject, counted from its end.

    `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<seq>.<nth>.<ns>.<pending>`
    and, with a domain, one more token.
    """
    tokens = message.reply.split(".")
    at = 5 if len(tokens) < 11 else 7
    return Fact(int(tokens[at]), message.subject, message.data, int(tokens[at + 2]) / 1e9)


async def _give_back(messages: list[Msg]) -> None:
    """Ask for what is not acked again later; without a bus it comes back by itself."""
    try:
        for message in messages:
            if not message._ackd:
                await message.nak(delay=_AGAIN_SECONDS)
    except NatsError:
        logger.warning("events come back when their ack is overdue")
