"""The persistence worker: commands and the log into PostgreSQL, answers out of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from faststream.message import StreamMessage
from faststream.nats import NatsBroker
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry

from bus import Bus, Pull, open_pull
from schemas import subjects
from workers.persistence.actions import ACTIONS
from workers.persistence.answers import Answers
from workers.persistence.commander import Commander
from workers.persistence.database import Database, Health, open_engine
from workers.persistence.erasure import Eraser
from workers.persistence.intake import CommandIntake, LogIntake, Metrics
from workers.persistence.projector import Projector
from workers.persistence.settings import PersistenceSettings
from workers.persistence.turns import Turns
from workers.runtime import OnLoading, OnReady, beside, create_broker, serve

KIND = "persistence"
LOG_CONSUMER = "persistence-log"
COMMANDS_CONSUMER = "persistence-commands"
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

    objects = settings.open_objects()
    commander = Commander(database, bus, ACTIONS)
    projector = Projector(database, log_floor, Turns(bus, objects, commander))
    metrics = Metrics(registry, database.health)
    subscribe_to_queries(broker, Answers(database, bus))
    watching = asyncio.create_task(projector.watch())
    eraser = Eraser(database, bus, objects)
    commands = CommandIntake(commander, bus, metrics)
    async with (
        beside(eraser.run()),
        pulling_log(bus, settings, LogIntake(projector, bus, metrics)),
        pulling_commands(bus, commands),
    ):
        try:
            yield Work(database.health)
        finally:
            # Before anybody is cancelled: psycopg would wait for the server's word.
            projector.stop()
            await database.close()
            await asyncio.wait({watching}, timeout=_LAST_PING_SECONDS)


@asynccontextmanager
async def pulling_log(
    bus: Bus, settings: PersistenceSettings, intake: LogIntake
) -> AsyncIterator[None]:
    """Take in what happened. `jan migrate` has made the consumer."""
    batch = settings.projection_batch
    pull = Pull(bus, subjects.EVENTS, LOG_CONSUMER, batch=batch, ahead=True)
    async with open_pull(pull), beside(intake.run(pull)):
        yield


@asynccontextmanager
async def pulling_commands(bus: Bus, intake: CommandIntake) -> AsyncIterator[None]:
    """Carry out some commands at a time; none waits here behind another."""
    async with AsyncExitStack() as stack:
        for _ in range(_COMMANDS_AT_ONCE):
            pull = Pull(bus, subjects.COMMANDS, COMMANDS_CONSUMER, batch=1)
            await stack.enter_async_context(open_pull(pull))
            await stack.enter_async_context(beside(intake.run(pull)))
        yield


def subscribe_to_queries(broker: NatsBroker, answers: Answers) -> None:
    """Answer questions, in turn with the other workers of the kind."""

    async def on_question(message: Msg) -> bytes:
        return await answers.answer(message.subject, message.data)

    broker.subscriber(
        subjects.query("*", "*"), queue=KIND, max_workers=_QUERIES_AT_ONCE, decoder=_raw_message
    )(on_question)


async def _raw_message(message: StreamMessage[Msg]) -> Msg:
    return message.raw_message
