"""The persistence worker: the log into PostgreSQL, and answers to questions out of it."""

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
from workers.persistence.answers import Answers
from workers.persistence.database import Database, Health, open_engine
from workers.persistence.intake import Intake, Metrics
from workers.persistence.projector import Projector
from workers.persistence.settings import PersistenceSettings
from workers.runtime import OnLoading, OnReady, create_broker, serve

KIND = "persistence"
RUNS_CONSUMER = "persistence-runs"
RUN_EVENTS = "events.run.>"
_GATHER_SECONDS = 0.2  # how long a batch waits for more: a row is that much behind at most
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
    projector = Projector(database)
    metrics = Metrics(registry, database.health)
    subscribe_to_runs(broker, settings, Intake(projector, bus, metrics))
    subscribe_to_queries(broker, Answers(database, bus))
    watching = asyncio.create_task(projector.watch_health())
    try:
        yield Work(database.health)
    finally:
        projector.stop()
        await database.close()
        # Not cancelled: psycopg would leave a half-made connection open.
        await asyncio.wait({watching}, timeout=_LAST_PING_SECONDS)


def subscribe_to_runs(broker: NatsBroker, settings: PersistenceSettings, intake: Intake) -> None:
    """Pull what happened to runs, in batches. `jan migrate` has made the consumer."""
    url = settings.nats_url.get_secret_value()
    inbox = str(connect_options(url, name=settings.name)["inbox_prefix"])
    broker.subscriber(
        RUN_EVENTS,
        durable=RUNS_CONSUMER,
        stream=JStream(subjects.EVENTS, declare=False),
        pull_sub=PullSub(settings.projection_batch, _GATHER_SECONDS, batch=True),
        inbox_prefix=f"{inbox}.".encode(),
        ack_policy=AckPolicy.MANUAL,
        decoder=_raw_messages,
    )(intake.on_run_events)


def subscribe_to_queries(broker: NatsBroker, answers: Answers) -> None:
    """Answer questions, in turn with the other workers of the kind."""
    for verb, answer in (
        ("get", answers.on_get_run),
        ("events", answers.on_get_run_events),
        ("result", answers.on_get_run_result),
    ):
        broker.subscriber(
            subjects.query("runs", verb),
            queue=KIND,
            max_workers=_QUERIES_AT_ONCE,
            decoder=_raw_body,
        )(answer)


async def _raw_messages(message: StreamMessage[list[Msg]]) -> list[Msg]:
    return message.raw_message


async def _raw_body(message: StreamMessage[Msg]) -> bytes:
    return message.raw_message.data
