"""`jan up`: the whole server on this machine, from nothing."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any

import msgspec
from setproctitle import setproctitle

from cli import keys, providers
from cli.exits import BadSetup
from cli.listen import check_ports
from cli.logs import Logs
from cli.nats_server import NatsServer
from cli.postgres import Cluster, Postgres
from cli.process import Command, raise_file_limit
from cli.reload import follow
from cli.state import Data, Record, State, Urls, data_at, default_data, ensure_secrets, locked
from cli.state import prepare as prepare_data
from cli.supervisor import (
    OwnProcess,
    Supervisor,
    end_leftovers,
    environment,
    on_source_change,
)

HELP = "start the server: NATS, PostgreSQL, the edge and all workers"
DEFAULT_PORT = 8080
WORKERS = ("inference", "responses", "tools", "persistence")
MOST = 256  # of one kind
SAME_SIGNAL_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    host = os.environ.get("JAN_HOST", "127.0.0.1")
    add("--host", default=host, help="address to listen on (default: %(default)s)")
    add(
        "--port",
        type=_port,
        default=os.environ.get("JAN_PORT", str(DEFAULT_PORT)),
        help="of the first edge; the next ones follow; 0: each any free one (default: %(default)s)",
    )
    add("--data", default=default_data(), help="where everything is kept (default: %(default)s)")
    add("--providers", metavar="FILE", help="who serves which models (see providers.example.yaml)")
    add(
        "--model",
        metavar="[NAME=]FILE.gguf",
        action="append",
        default=[],
        dest="models",
        help="serve a model of this machine, or of the hub: hf:OWNER/REPO/FILE.gguf; repeatable",
    )
    add("--upstream", metavar="URL", help="attach an OpenAI-compatible server, e.g. http://host/v1")
    add(
        "--scale",
        metavar="KIND=N",
        action="append",
        type=_scale,
        default=[],
        help=f"how many processes of a kind: edge, {', '.join(WORKERS)}",
    )
    add("--inference", metavar="N", type=_count, help="short for --scale inference=N")
    add("--edges", metavar="N", type=_count, help="short for --scale edge=N")
    add("--reload", action="store_true", help="restart our processes when their source changes")


def _port(text: str) -> int:
    return _number(text, 65535)


def _count(text: str) -> int:
    return _number(text, MOST)


def _number(text: str, most: int) -> int:
    if not text.isdecimal() or int(text) > most:
        raise argparse.ArgumentTypeError(f"{text!r} is no number between 0 and {most}")
    return int(text)


def _scale(text: str) -> tuple[str, int]:
    kind, separator, number = text.partition("=")
    kind = "edge" if kind == "edges" else kind
    if not separator or kind not in ("edge", *WORKERS) or not number.isdigit():
        raise argparse.ArgumentTypeError(f"say KIND=N, with KIND one of edge, {', '.join(WORKERS)}")
    return kind, _count(number)


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    host: str
    port: int
    counts: dict[str, int]
    reload: bool
    providers: str | None
    upstream: str | None
    models: list[str]


def to_plan(args: argparse.Namespace) -> Plan:
    """Read the options as one plan. Raises BadSetup if they contradict each other."""
    counts = {"edge": 1} | dict.fromkeys(WORKERS, 1) | dict(args.scale)
    if args.edges is not None:
        counts["edge"] = args.edges
    if args.inference is not None:
        counts["inference"] = args.inference
    if counts["edge"] < 1:
        raise BadSetup("at least one edge is needed: nobody could reach the server")
    if args.port and args.port + counts["edge"] - 1 > 65535:
        raise BadSetup(f"{counts['edge']} edges from port {args.port} on go past 65535")
    named = args.providers or os.environ.get("JAN_PROVIDERS")
    if args.providers and args.upstream:
        raise BadSetup("--providers and --upstream exclude each other: name the URL in the file")
    if args.providers and args.models:
        raise BadSetup("--providers and --model exclude each other: name the model in the file")
    return Plan(args.host, args.port, counts, args.reload, named, args.upstream, args.models)


async def main(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    plan = to_plan(args)
    data = data_at(args.data)
    prepare_data(data)
    setproctitle(f"jan: up {data.path}")
    raise_file_limit()
    with locked(data), contextlib.closing(Logs(data.logs, sys.stderr)) as logs:
        end_leftovers(data, logs)
        check_ports(plan.host, plan.port, plan.counts["edge"])
        served = await providers.choose(plan.providers, plan.upstream, plan.models, data)
        before = data.read()
        record = Record(
            supervisor=os.getpid(),
            started_at=time.time(),
            ports=before.ports,
            providers=str(served.path or ""),
        )
        async with _stop_signals() as stop, Supervisor(data, logs, record) as supervisor:
            await Server(plan, served, data, logs, supervisor).run(stop)
    return 0


@contextlib.asynccontextmanager
async def _stop_signals() -> AsyncIterator["asyncio.Queue[signal.Signals]"]:
    """Collect SIGINT, SIGTERM and SIGHUP."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[signal.Signals] = asyncio.Queue()
    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it is nothing
        wanted.append(signal.SIGHUP)
    for number in wanted:
        loop.add_signal_handler(number, queue.put_nowait, number)
    yield queue


class Server:
    """One start of the server."""

    def __init__(
        self,
        plan: Plan,
        served: providers.Served,
        data: Data,
        logs: Logs,
        supervisor: Supervisor,
    ) -> None:
        self._plan = plan
        self._served = served
        self._environment = environment(data, served.environment())
        self._data = data
        self._logs = logs
        self._supervisor = supervisor
        self._begun = time.monotonic()
        self._external_nats = os.environ.get("JAN_NATS_URL")
        self._external_database = os.environ.get("JAN_DATABASE_URL")

    async def run(self, stop: "asyncio.Queue[signal.Signals]") -> None:
        """Start everything, serve, and return when a signal comes."""
        starting = asyncio.ensure_future(self._start())
        signalled = asyncio.ensure_future(stop.get())
        await asyncio.wait((starting, signalled), return_when=asyncio.FIRST_COMPLETED)
        if not signalled.done():
            starting.result()
            await self._serve(signalled)
        else:
            starting.cancel()
            await asyncio.wait((starting,))
        self._logs.say("stopping", signal=signalled.result().name)
        impatient = asyncio.ensure_future(self._kill_if_asked_again(stop))
        await self._supervisor.stop()
        impatient.cancel()

    async def _kill_if_asked_again(self, stop: "asyncio.Queue[signal.Signals]") -> None:
        """Who presses Ctrl-C twice can't wait; but one signal may come by two ways at once."""
        begun = time.monotonic()
        while time.monotonic() - begun < SAME_SIGNAL_SECONDS:
            await stop.get()
        self._supervisor.kill()

    async def _serve(self, signalled: "asyncio.Future[signal.Signals]") -> None:
        path = self._served.path or self._data.path / "providers.yaml"
        follows = follow(path, self._served.providers, self._migrate, self._logs)
        watching: list[asyncio.Future[None]] = [asyncio.ensure_future(follows)]
        if self._plan.reload:
            watching.append(asyncio.ensure_future(on_source_change(self._reload)))
        waits: list[asyncio.Future[Any]] = [signalled, *watching]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in watching:
            task.cancel()

    async def _reload(self, changed: list[str]) -> None:
        self._logs.say("the source has changed: our processes restart", files=changed)
        await self._supervisor.restart_own()

    async def _start(self) -> None:
        ensure_secrets(self._data)
        await self._start_servers()
        await self._timed("streams and tables are up to date", self._migrate())
        await self._supervisor.start(self._processes())
        # Last: the key of a start that fails before it is shown would be lost.
        self._announce(await keys.create_first(State(self._data, self._supervisor.record)))

    async def _timed(self, done: str, work: Awaitable[None]) -> None:
        begun = time.monotonic()
        await work
        self._logs.say(done, took=round(time.monotonic() - begun, 2))

    async def _start_servers(self) -> None:
        """Start the embedded NATS and PostgreSQL, unless the person has their own."""
        urls: Urls = self._supervisor.record.urls
        urls.nats, urls.database = await asyncio.gather(self._start_nats(), self._start_postgres())
        self._supervisor.write()

    async def _start_nats(self) -> str:
        if self._external_nats:
            return self._external_nats
        server = NatsServer(self._data, self._supervisor.record.ports.get("nats", 0), os.environ)
        await self._supervisor.start([server])
        return server.url

    async def _start_postgres(self) -> str:
        if self._external_database:
            return self._external_database
        server = Postgres(await self._cluster(), self._supervisor.record.ports.get("postgres", 0))
        await self._supervisor.start([server])
        return server.url

    async def _cluster(self) -> Cluster:
        cluster = Cluster(self._data)
        if not cluster.exists:
            self._logs.say("making the database's files, at the first start only")
            password = (self._data.keys / "postgres").read_text()
            made = asyncio.to_thread(cluster.initialise, password)
            await self._timed("the database's files are made", made)
        await asyncio.to_thread(cluster.check)
        await asyncio.to_thread(cluster.adopt)
        return cluster

    async def _migrate(self) -> None:
        argv = [sys.executable, "-m", "cli", "migrate", "--data", str(self._data.path)]
        command = Command(argv=argv, executable=sys.executable, env=self._environment)
        await self._supervisor.run_once("migrate", lambda _: command)

    def _processes(self) -> list[OwnProcess]:
        plan = self._plan
        edges = [
            OwnProcess(
                f"edge-{number}",
                "edge",
                ["edge"],
                self._data,
                self._environment,
                host=plan.host,
                port=plan.port and plan.port + number - 1,
            )
            for number in range(1, plan.counts["edge"] + 1)
        ]
        workers = [
            OwnProcess(f"{kind}-{number}", kind, ["worker", kind], self._data, self._environment)
            for kind in WORKERS
            for number in range(1, plan.counts[kind] + 1)
        ]
        return [*workers, *edges]

    def _announce(self, first_key: str | None) -> None:
        """Say that it serves: one line on stdout for programs, the rest on stderr for people."""
        api = self._supervisor.record.urls.api
        page = api.removesuffix("/v1")
        took = round(time.monotonic() - self._begun, 2)
        self._logs.say("the server is ready", url=api, took=took, data=str(self._data.path))
        if first_key:
            text = first_key_text(api, first_key, self._served.example_model)
            pages = [f"{page}/", f"{api}/swagger/index.html"]
            self._logs.print_text(
                text, event="a first API key", api_key=first_key, base_url=api, pages=pages
            )
        if self._served.toys:
            self._logs.say(ATTACH, model=self._served.example_model)
        with contextlib.suppress(BrokenPipeError):
            print(f"ready: {api}", flush=True)


ATTACH = (
    "no model is attached: jan-tiny answers, a toy that comes along and knows little but how Jan"
    " Server works (and jan-simulated, for tests); for a real one: ./jan up --model FILE.gguf, or"
    " --model hf:OWNER/REPO/FILE.gguf, or --upstream http://HOST:PORT/v1, or set OPENAI_API_KEY,"
    " or --providers FILE (see providers.example.yaml)"
)


def first_key_text(api: str, key: str, model: str) -> str:
    """What a person sees once: the key, something to paste, pages to open."""
    body = msgspec.json.encode(
        {"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    ).decode()
    page = api.removesuffix("/v1")
    return f"""
  Your API key, shown only now:

    {key}

  Try it:

    curl -N {api}/chat/completions \\
      -H 'Authorization: Bearer {key}' \\
      -H 'Content-Type: application/json' \\
      -d '{body}'

  Pages:  {page}/   {api}/swagger/index.html
  More keys:  ./jan keys create
"""
