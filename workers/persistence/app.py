"""The persistence worker: commands and the log into PostgreSQL, answers out of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from bus import Bus, Pull, streams
from schemas import subjects
from workers.persistence.actions import ACTIONS
from workers.persistence.answers import Answers
from workers.persistence.commander import Commander
from workers.persistence.database import Database, Health, open_engine
from workers.persistence.erasure import Eraser
from workers.persistence.intake import CommandIntake, Intake, Metrics, QuestionIntake
from workers.persistence.projector import Projector
from workers.persistence.pruning import Pruner
from workers.persistence.settings import PersistenceSettings
from workers.persistence.sources import Source
from workers.persistence.titler import Titler
from workers.persistence.turns import Turns
from workers.runtime import OnLoading, OnReady, beside, create_broker, serve

KIND = "persistence"
LOG_CONSUMER = "persistence-log"
COMMANDS_CONSUMER = "persistence-commands"
# That one request for messages waits: less than the consumer's patience, or a worker that stands
# still would be given again what it has just lost.
_LOG_REQUEST_SECONDS = 5.0
_COMMANDS_REQUEST_SECONDS = 1.5
_IDLE_MS = 5000  # more than any transaction of ours takes between two statements
_DRAIN_SECONDS = 2.0
_LAST_PING_SECONDS = 3.5  # a little more than a connection takes at most


async def run(settings: PersistenceSettings, *, on_ready: OnReady) -> None:
    """Run the worker until SIGTERM or SIGINT; `on_ready` gets the port of its metrics."""

    @asynccontextmanager
    async def open_work(
        bus: Bus, registry: CollectorRegistry, _tell: OnLoading
    ) -> AsyncIterator[Work]:
        async with open_worker(settings, bus, registry) as work:
            yield work

    await serve(settings, KIND, create_broker(settings), open_work, on_ready)


class Work:
    """What the worker tells about itself."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def presence(self) -> dict[str, object]:
        """Whether the database answers: if it does not, /readyz of the edges says `degraded`."""
        return {"database": self._health.state}


class Pools(NamedTuple):
    """How a worker's connections are divided."""

    reads: int
    writes: int
    commands: int  # at once; the other writes are the projection and what it watches

    @classmethod
    def of(cls, connections: int) -> "Pools":
        """Divide: 4 of 10 for questions, 6 for writes, 4 commands at a time."""
        reads = max(1, connections * 2 // 5)
        writes = connections - reads
        return cls(reads, writes, max(1, writes - 2))


@asynccontextmanager
async def open_worker(
    settings: PersistenceSettings, bus: Bus, registry: CollectorRegistry
) -> AsyncIterator[Work]:
    """Pull commands and the log, answer questions and watch the database for the context's life."""
    pools = Pools.of(settings.database_pool)
    async with AsyncExitStack() as stack:
        writes, sources = await _open_databases(stack, settings, pools)
        metrics = Metrics(registry, writes.health)
        questions = QuestionIntake(Answers(sources, bus, metrics.note_answer), bus)

        async def log_floor() -> int:
            return await streams.ack_floor(bus, subjects.EVENTS, LOG_CONSUMER)

        objects = settings.open_objects()
        commander = Commander(writes, bus, ACTIONS)
        titler = (
            Titler(settings.title_model, writes, bus, commander) if settings.title_model else None
        )
        turns = Turns(bus, objects, titler or commander)
        projector = Projector(writes, log_floor, sources[-1].advanced, turns)
        intake = Intake(projector, bus, metrics, settings.projection_batch)
        sources[-1].on_wait = intake.batches.hurry
        commands = CommandIntake(commander, bus, metrics)
        eraser = Eraser(writes, bus, objects)
        pruner = Pruner(writes, commander.tell_log, settings.commands_kept)
        # These end by themselves when told to: cancelled, psycopg would wait for the server's word.
        ending = [
            asyncio.create_task(projector.watch()),
            asyncio.create_task(intake.batches.run()),
        ]
        try:
            async with (
                beside(pruner.run()),
                beside(eraser.run()),
                beside(titler.run()) if titler is not None else nullcontext(),
                beside(pull_log(bus, intake, settings.projection_batch)),
                beside(pull_commands(bus, commands, pools.commands)),
                answering(bus, questions),
            ):
                yield Work(writes.health)
        finally:
            projector.stop()
            intake.batches.stop()
            await asyncio.gather(
                commands.drain(_DRAIN_SECONDS),
                questions.drain(_DRAIN_SECONDS),
                _ended(ending, _DRAIN_SECONDS),
            )
            await stack.aclose()
            await _ended(ending, _LAST_PING_SECONDS)


async def _ended(tasks: Sequence[asyncio.Task[None]], seconds: float) -> None:
    await asyncio.wait(tasks, timeout=seconds)


async def _open_databases(
    stack: AsyncExitStack, settings: PersistenceSettings, pools: Pools
) -> tuple[Database, list[Source]]:
    """Open what is written to, and what answers: the replica if there is one, then the database."""
    url = settings.database_url.get_secret_value()
    writes = Database(open_engine(url, pool_size=pools.writes, idle_ms=_IDLE_MS))
    reads = Database(open_engine(url, pool_size=pools.reads, only_reads=True))
    sources = [Source("primary", reads, pools.reads)]
    if settings.database_read_url is not None:
        replica_url = settings.database_read_url.get_secret_value()
        engine = open_engine(replica_url, pool_size=pools.reads, only_reads=True)
        replica = Database(engine, Health("questions go to the primary", "replica"))
        sources.insert(0, Source("replica", replica, pools.reads))
    for database in (writes, *(source.database for source in sources)):
        stack.push_async_callback(database.close)
    return writes, sources


async def pull_log(bus: Bus, intake: Intake, batch: int) -> None:
    """Pull what happened; the next batch comes in while one is written."""
    pull = Pull(
        bus,
        subjects.EVENTS,
        LOG_CONSUMER,
        intake.batches.put,
        room=2 * batch,
        seconds=_LOG_REQUEST_SECONDS,
    )
    intake.batches.done = pull.done
    await pull.run()


async def pull_commands(bus: Bus, intake: CommandIntake, at_once: int) -> None:
    """Pull what is to be written, as many commands as are carried out at once."""
    pull = Pull(
        bus,
        subjects.COMMANDS,
        COMMANDS_CONSUMER,
        lambda delivery: intake.begin(delivery, pull.done),
        room=at_once,
        seconds=_COMMANDS_REQUEST_SECONDS,
    )
    await pull.run()


@asynccontextmanager
async def answering(bus: Bus, questions: QuestionIntake) -> AsyncIterator[None]:
    """Answer questions, in turn with the other workers of the kind, for the context's life."""
    asked = await bus.subscribe(subjects.query("*", "*"), questions.on_question, queue=KIND)
    try:
        yield
    finally:
        await asked.unsubscribe()
