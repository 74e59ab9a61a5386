"""The persistence worker: commands and the log into PostgreSQL, answers out of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faststream.message import StreamMessage
from faststream.middlewares import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry

from bus import Bus, connect_options
from schemas import subjects
from workers.persistence.actions import ACTIONS
from workers.persistence.answers import Answers
from workers.persistence.commander import Commander
from workers.persistence.database import Database, Health, open_engine
from workers.persistence.intake import CommandIntake, Intake, Metrics
from workers.persistence.projector import Projector
from workers.persistence.pulling import pull_batches
from workers.persistence.settings import PersistenceSettings
from workers.runtime import OnLoading, OnReady, create_broker, serve

KIND = "persistence"
LOG_CONSUMER = "persistence-log"
COMMANDS_CONSUMER = "persistence-commands"
_COMMAND_SECONDS = 5.0  # that one request for a command waits
_COMMANDS_AT_ONCE = 4
_QUERIES_AT_ONCE = 8
_LAST_PING_SECONDS = 3.5  # a little more than a connection takes at most


async def run(settings: PersistenceSettings, *, on_ready: OnReady) -> None:
    """Run the worker until SIGTERM or SIGINT; `on_ready` gets the port of its metrics."""
    broker = create_broker(settings)

    @asynccontextmanager
    async def open_work(
        bus: Bus, registry: CollectorRegistry, _tell: OnLoading
    ) -> AsyncIterator[Work]:
        async with open_worker(settings, broker, bus, registry) as work:
            yield work

    await serve(settings, KIND, broker, open_work, on_ready)


class Work:
    """What the worker tells about itself."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def presence(self) -> dict[str, object]:
        """Whether the database answers: if it does not, /readyz of the edges says `degraded`."""
        return {"database": self._health.state}


@asynccontextmanager
async def open_worker(
    settings: PersistenceSettings, broker: NatsBroker, bus: Bus, registry: CollectorRegistry
) -> AsyncIterator[Work]:
    """Declare the subscribers and watch the database for the context's life."""
    url = settings.database_url.get_secret_value()
    database = Database(open_engine(url, pool_size=settings.database_pool))

    async def log_floor() -> int:
        return await bus.ack_floor(subjects.EVENTS, LOG_CONSUMER)

    projector = Projector(database, log_floor)
    metrics = Metrics(registry, database.health)
    commander = Commander(database, bus, ACTIONS)
    subscribe_to_commands(broker, settings, CommandIntake(commander, bus, metrics))
    subscribe_to_queries(broker, Answers(database, bus))
    watching = asyncio.create_task(projector.watch())
    stopping = asyncio.Event()
    pulling = asyncio.create_task(
        pull_log(bus, settings, Intake(projector, bus, metrics), stopping)
    )
    try:
        yield Work(database.health)
    finally:
        stopping.set()
        projector.stop()
        await database.close()
        # Not cancelled: psycopg would leave a half-made connection open.
        await asyncio.wait({watching, pulling}, timeout=_LAST_PING_SECONDS)


async def pull_log(
    bus: Bus, settings: PersistenceSettings, intake: Intake, stopping: asyncio.Event
) -> None:
    """Pull what happened, in batches, until `stopping`. `jan migrate` has made the consumer."""
    await pull_batches(
        bus,
        LOG_CONSUMER,
        stream=subjects.EVENTS,
        batch=settings.projection_batch,
        inbox_prefix=_inbox_prefix(settings),
        on_messages=intake.on_events,
        stopping=stopping,
    )


def subscribe_to_commands(
    broker: NatsBroker, settings: PersistenceSettings, intake: CommandIntake
) -> None:
    """Pull what is to be written, one command at a time: a batch would wait for its last."""
    broker.subscriber(
        "commands.>",
        durable=COMMANDS_CONSUMER,
        stream=JStream(subjects.COMMANDS, declare=False),
        pull_sub=PullSub(1, _COMMAND_SECONDS),
        max_workers=_COMMANDS_AT_ONCE,
        inbox_prefix=_inbox_prefix(settings),
        ack_policy=AckPolicy.MANUAL,
        decoder=_raw_message,
    )(intake.on_command)


def subscribe_to_queries(broker: NatsBroker, answers: Answers) -> None:
    """Answer questions, in turn with the other workers of the kind."""

    async def on_question(message: Msg) -> bytes:
        return await answers.answer(message.subject, message.data)

    broker.subscriber(
        subjects.query("*", "*"), queue=KIND, max_workers=_QUERIES_AT_ONCE, decoder=_raw_message
    )(on_question)


def _inbox_prefix(settings: PersistenceSettings) -> bytes:
    options = connect_options(settings.nats_url.get_secret_value(), name=settings.name)
    return f"{options['inbox_prefix']}.".encode()


async def _raw_message(message: StreamMessage[Msg]) -> Msg:
    return message.raw_message
