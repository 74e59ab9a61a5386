"""What every worker process has: settings, broker, presence, metrics, burials."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import nats
import structlog
from faststream import FastStream
from faststream.nats import NatsBroker
from nats.aio.client import Client
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from bus import Bucket, Bus, ObjectStore, attach, connect_options, open_store
from schemas import subjects
from schemas.errors import BusError, BusUnavailable

logger = structlog.get_logger()

_PRESENCE_EVERY = 2.0  # seconds; readers take 6 s without a word for absence
_CONNECT_TIMEOUT = 10.0
_LEAVE_SECONDS = 2.0

OnReady = Callable[[int], None]
OnLoading = Callable[[str], None]


class WorkerSettings(BaseSettings):
    """What every worker is told."""

    model_config = SettingsConfigDict(env_prefix="JAN_", env_file=".env", extra="ignore")

    nats_url: SecretStr = Field(
        default=SecretStr("nats://127.0.0.1:4222"),
        description="Where NATS is, with user and password. The default is a server of this "
        "machine; `jan` fills in the one that it started.",
    )
    name: str = Field(
        default="worker-1",
        description="This process's name in presence, logs and runs; unique among its kind.",
    )
    data: Path = Field(
        default=Path(".jan"),
        description="The data folder, shared by all processes of a machine. Beside the program by "
        "default, so that removing the folder removes every trace.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="How much is logged. `info` is a few lines for each start, none for a run.",
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        description="Where /metrics and /healthz listen. Local by default: they need no key.",
    )
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port of /metrics and /healthz. 0 takes a free one, so that any number of "
        "workers can start on one machine.",
    )
    s3_url: str = Field(
        default="",
        description="Object store of large requests; empty: the folder `objects` under data.",
    )
    s3_bucket: str = Field(default="jan", description="Bucket of the object store.")
    s3_access_key: str = Field(default="", description="Who uses the object store.")
    s3_secret_key: SecretStr = Field(default=SecretStr(""), description="Its secret.")

    def open_objects(self) -> ObjectStore:
        """Open the object store that all processes share."""
        return open_store(
            self.data / "objects",
            s3_url=self.s3_url,
            s3_bucket=self.s3_bucket,
            access_key=self.s3_access_key,
            secret=self.s3_secret_key.get_secret_value(),
        )


class Work(Protocol):
    """What a worker does while it is open; leaving its context drains it."""

    def presence(self) -> dict[str, object]:
        """Facts for others, such as slots, running, pools and draining."""


OpenWork = Callable[[Bus, CollectorRegistry, OnLoading], AbstractAsyncContextManager[Work]]


def create_broker(settings: WorkerSettings) -> NatsBroker:
    """Make the FastStream broker of a worker; it connects when the worker is served."""
    url = settings.nats_url.get_secret_value()
    return NatsBroker(
        url,
        logger=None,  # its lines would be plain text, two for every message
        apply_types=False,  # subscribers decode by themselves: nothing is validated twice
        **connect_options(url, name=settings.name),
    )


async def serve(
    settings: WorkerSettings,
    kind: str,
    broker: NatsBroker,
    open_work: OpenWork,
    on_ready: OnReady,
    *,
    on_loading: OnLoading = lambda _: None,
) -> None:
    """Run a worker until SIGTERM or SIGINT, then drain it. Raises BusUnavailable.

    If the bus ends the connection it leaves, without letting jobs end: nobody would hear of it.

    `on_ready` gets the port of /metrics once the work is open and the broker's subscribers run;
    until then `on_loading` hears every other second what the work says of its opening.
    """
    stack = AsyncExitStack()
    port = 0
    leaving, fault = asyncio.timeout(None), None

    def on_closed(error: BusUnavailable) -> None:
        nonlocal fault
        fault = error
        logger.error(error.message)
        app.exit()
        leaving.reschedule(asyncio.get_running_loop().time() + _LEAVE_SECONDS)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        nonlocal port
        bus = await attach(await _connect(broker))
        stack.callback(bus.on_closed(on_closed))
        try:
            registry = create_registry()
            port = await stack.enter_async_context(open_monitor(settings, registry, bus))
            presence = Presence(bus, settings, kind, port, on_loading)
            await stack.enter_async_context(open_presence(presence))
            work = open_work(bus, registry, presence.tell)
            await presence.opened(await stack.enter_async_context(work))
            yield
        finally:
            await stack.aclose()
            await bus.close()

    app = FastStream(
        broker,
        logger=None,
        lifespan=lifespan,
        after_startup=[lambda: on_ready(port)],
        # The work ends while there still is a connection to say so.
        on_shutdown=[stack.aclose],
    )
    try:
        async with leaving:
            await app.run()
    except nats.errors.Error as error:  # FastStream's goodbye to a server that is not there
        logger.warning("left without a goodbye", error=str(error))
    except TimeoutError:
        if not leaving.expired():
            raise
    if fault is not None:
        raise fault


async def _connect(broker: NatsBroker) -> Client:
    """Connect within ten seconds: nats-py would try for ever, deaf to signals."""
    try:
        await asyncio.wait_for(broker.connect(), _CONNECT_TIMEOUT)
    except (OSError, TimeoutError, nats.errors.Error) as error:
        raise BusUnavailable(f"NATS can't be reached: {error or type(error).__name__}") from error
    return broker.connection


class Presence:
    """Tells others every two seconds that this process is there, or how far its opening is."""

    def __init__(
        self, bus: Bus, settings: WorkerSettings, kind: str, port: int, on_loading: OnLoading
    ) -> None:
        self._work: Work | None = None
        self._on_loading = on_loading
        self._bucket = Bucket(bus, subjects.KV_HEALTH)
        self._bus = bus
        self._key = f"worker.{kind}.{settings.name}"
        self._facts: dict[str, object] = {
            "kind": kind,
            "name": settings.name,
            "pid": os.getpid(),
            "host": settings.metrics_host,
            "port": port,
            "draining": False,
            "loading": "starting",
        }

    def tell(self, word: str) -> None:
        """Say how far the opening of the work is."""
        logger.info("loading", what=word)
        self._facts["loading"] = word
        self._on_loading(word)

    async def opened(self, work: Work) -> None:
        """The work is open: its own facts are told from now on, at once for the first time."""
        self._work = work
        self._facts["loading"] = ""
        await self._announce()

    async def run(self) -> None:
        """Announce until cancelled."""
        while True:
            await self._announce()
            await asyncio.sleep(_PRESENCE_EVERY)

    async def leave(self) -> None:
        """Take the announcement back."""
        if self._bus.connected:
            try:
                await asyncio.wait_for(self._bucket.delete(self._key), 0.5)
            except (BusError, TimeoutError) as error:
                logger.warning("presence stays until it expires", error=str(error))

    async def _announce(self) -> None:
        if self._work is None:
            self._on_loading(str(self._facts["loading"]))
        if not self._bus.connected:
            return
        facts = self._facts | {"at": time.time()} | (self._work.presence() if self._work else {})
        try:
            await self._bucket.put(self._key, msgspec.json.encode(facts))
        except BusError as error:
            logger.warning("presence not announced", error=str(error))


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do the work beside the context's body, and end it with that; its fault ends the body."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work)
        try:
            yield
        finally:
            task.cancel()


@asynccontextmanager
async def open_presence(presence: Presence) -> AsyncIterator[None]:
    """Keep a process announced for the context's life."""
    async with beside(presence.run()):
        yield
    await presence.leave()


def create_registry() -> CollectorRegistry:
    """Make a registry of metrics that has those of the process itself."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


@asynccontextmanager
async def open_monitor(
    settings: WorkerSettings, registry: CollectorRegistry, bus: Bus
) -> AsyncIterator[int]:
    """Serve /metrics and /healthz for the context's life; yields the port."""

    def answer(path: bytes) -> tuple[bytes, bytes, bytes]:
        if path == b"/metrics":
            return b"200 OK", b"text/plain; version=0.0.4; charset=utf-8", generate_latest(registry)
        if path == b"/healthz":
            status = b"200 OK" if bus.connected else b"503 Service Unavailable"
            body = msgspec.json.encode({"status": "ok" if bus.connected else "no bus"})
            return status, b"application/json", body
        return b"404 Not Found", b"text/plain", b"not found\n"

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5.0)
            status, kind, body = answer(head.split(b" ", 2)[1].partition(b"?")[0])
            writer.write(
                b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
                b"Connection: close\r\n\r\n%b" % (status, kind, len(body), body)
            )
            await asyncio.wait_for(writer.drain(), 5.0)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            logger.debug("a reader of metrics went away")
        finally:
            writer.close()

    server = await asyncio.start_server(
        on_connection, settings.metrics_host, settings.metrics_port, limit=16384
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


async def bury(
    bus: Bus,
    stream: str,
    subject: str,
    data: bytes,
    *,
    error: str,
    sequence: int,
    headers: bytes = b"",
) -> None:
    """Keep a message that nobody can handle in DEAD; to be called before it is terminated.

    `headers` is what it needs to be sent again beside its subject and body, in lines.
    """
    logger.error("message is dead", subject=subject, error=error)
    reason = " ".join(error.split()).encode("ascii", "replace")[:500]
    await bus.store(
        subjects.dead(stream, subject),
        data,
        msg_id=f"DEAD:{stream}:{sequence}:0",
        headers=headers + b"%b: %b\r\n" % (subjects.ERROR.encode(), reason),
        timeout=10.0,
    )
