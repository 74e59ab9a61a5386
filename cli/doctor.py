"""`jan doctor`: looks at every part of a server, and says what to do about what is wrong."""

import argparse
import asyncio
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import msgspec

from bus import Bucket, Bus, open_bus
from bus.topology import TopologyError
from cli.exits import Exit
from cli.migrate import find_providers, migrate_bus
from cli.providers import read
from cli.ps import is_frozen
from cli.state import ROOT, State, default_data, load
from schemas import subjects
from schemas.api.admin import ProviderDeployment, to_provider_list
from schemas.catalogue import Catalogue, decode_catalogue
from schemas.errors import BusError, BusUnavailable, JanError
from schemas.health import (
    ABSENT_AFTER,
    DEPLOYMENTS,
    DeploymentState,
    WorkerFacts,
    decode_state,
    decode_worker,
)
from schemas.providers import Providers, default_providers
from schemas.tools import Switch, Tool, decode_switch, decode_tool

HELP = "look at every part, and say what to do"
ABSENT_SECONDS = 6.0  # without a word
LITTLE_DISK = 2_000_000_000
NO_DISK = 200_000_000
FULL_SHARE = 0.9  # of a stream's max_bytes
RESTARTS = 3
TIMEOUT = 5.0
_MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


class Finding(msgspec.Struct):
    """One line of the diagnosis; `do` says what to do unless all is well."""

    level: Literal["ok", "warn", "fail"]
    what: str
    says: str
    do: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", default=default_data(), help="of which server")
    parser.add_argument("--json", action="store_true", help="for programs")


async def main(args: argparse.Namespace) -> int:
    """Print what is found; 1 if anything fails."""
    state = load(args.data)
    failed = False
    found = []
    async for finding in examine(state):
        failed = failed or finding.level == "fail"
        found.append(finding)
        if not args.json:
            print(to_line(finding), flush=True)
    if args.json:
        print(msgspec.json.encode(found).decode())
    return 1 if failed else 0


def to_line(finding: Finding) -> str:
    """Lay out one finding for a person."""
    line = f"{_MARKS[finding.level]}  {finding.what:<28}  {finding.says}"
    return f"{line}\n      -> {finding.do}" if finding.do else line


async def examine(state: State) -> AsyncIterator[Finding]:
    """Look at everything, from the machine to the providers."""
    yield _python()
    yield _disk(state)
    for finding in _processes(state):
        yield finding
    providers, finding = _providers(state)
    yield finding
    async for finding in _bus(state, providers):
        yield finding
    yield await _database(state)
    for url in state.edges:
        yield await asyncio.to_thread(_edge, url)
    async for finding in _engines(providers):
        yield finding


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("ok", "python", f"{version} in {sys.prefix}")


def _disk(state: State) -> Finding:
    path = state.data.path
    if not path.exists():
        return Finding("fail", "data", f"{path} is not there", "start a server: ./jan up")
    if not os.access(path, os.W_OK):
        return Finding("fail", "data", f"{path} can't be written", "run as the user who started it")
    free = shutil.disk_usage(path).free
    says = f"{path}, {free / 1e9:.1f} GB free"
    if free < NO_DISK:
        return Finding("fail", "data", says, "make room: NATS and PostgreSQL stop when it is full")
    if free < LITTLE_DISK:
        return Finding("warn", "data", says, "make room")
    return Finding("ok", "data", says)


def _processes(state: State) -> list[Finding]:
    if not state.running:
        if os.environ.get("JAN_NATS_URL"):
            return [Finding("ok", "supervisor", "none here; JAN_NATS_URL says where the bus is")]
        return [Finding("fail", "supervisor", "it does not run", "start the server: ./jan up")]
    findings = [Finding("ok", "supervisor", f"pid {state.record.supervisor}")]
    for process in state.processes:
        frozen = is_frozen(process.pid)
        condition = "frozen" if frozen else process.state
        says = f"{condition}, pid {process.pid}, {process.restarts} restarts"
        where = f"read {state.data.logs / process.name}.log"
        if frozen:
            findings.append(Finding("fail", process.name, says, f"kill -CONT {process.pid}"))
        elif not state.data.owns(process.pid) or process.state != "ready":
            findings.append(Finding("fail", process.name, says, where))
        elif process.restarts > RESTARTS:
            findings.append(Finding("warn", process.name, says, where))
        else:
            findings.append(Finding("ok", process.name, says))
    return findings


def _providers(state: State) -> tuple[Providers, Finding]:
    file = find_providers(None, state)
    try:
        providers = read(file, str(file)) if file else default_providers()
    except Exit as exit:
        return default_providers(), Finding("fail", "providers", str(exit), "correct the file")
    models = sum(len(provider.models) for provider in providers.providers)
    if file is None:
        do = "attach a real one: --model FILE.gguf, --upstream URL, OPENAI_API_KEY or --providers"
        says = "only jan-tiny, a toy that comes along, and jan-simulated, for tests, are served"
        return providers, Finding("warn", "providers", says, do)
    return providers, Finding("ok", "providers", f"{file}, {models} models")


async def _bus(state: State, providers: Providers) -> AsyncIterator[Finding]:
    try:
        begun = time.monotonic()
        async with open_bus(state.nats_url("cli"), name="cli") as bus:
            took = (time.monotonic() - begun) * 1000
            server = bus.nc.connected_server_version
            version = f"{server.major}.{server.minor}.{server.patch}"
            yield Finding("ok", "nats", f"{version}, connected in {took:.0f} ms")
            yield await _topology(state, providers)
            for stream in _names("streams") + _names("kv"):
                async for finding in _stream(bus, stream):
                    yield finding
            async for finding in _present(bus, providers):
                yield finding
    except (BusUnavailable, Exit) as error:
        yield Finding("fail", "nats", str(error), "start the server: ./jan up, or read nats.log")


async def _topology(state: State, providers: Providers) -> Finding:
    try:
        changes = await migrate_bus(state.nats_url("migrate"), providers, check=True)
    except (Exit, TopologyError, BusError) as error:
        return Finding("fail", "topology", str(error), "jan migrate says more")
    if changes:
        says = "; ".join(f"{change.action} {change.what}" for change in changes)
        return Finding("fail", "topology", f"differs: {says}", "bring it up to date: jan migrate")
    return Finding("ok", "topology", "as this release needs it")


def _names(folder: str) -> list[str]:
    files = sorted((ROOT / "nats" / folder).glob("*.json"))
    return [str(msgspec.json.decode(file.read_bytes())["name"]) for file in files]


async def _ask(bus: Bus, subject: str) -> dict[str, Any]:
    answer: dict[str, Any] = msgspec.json.decode(await bus.ask(subject, b"", timeout=TIMEOUT))
    return answer


async def _stream(bus: Bus, name: str) -> AsyncIterator[Finding]:
    try:
        answer = await _ask(bus, f"$JS.API.STREAM.INFO.{name}")
        if "error" in answer:
            says = str(answer["error"].get("description"))
            yield Finding("fail", f"stream {name}", says, "make it: jan migrate")
            return
        yield _stream_size(name, answer)
        if answer["state"].get("consumer_count"):
            listed = await _ask(bus, f"$JS.API.CONSUMER.LIST.{name}")
            for consumer in listed.get("consumers") or []:
                yield _consumer(name, consumer)
    except BusError as error:
        yield Finding("fail", f"stream {name}", str(error), "read nats.log")


def _stream_size(name: str, answer: dict[str, Any]) -> Finding:
    state, most = answer["state"], answer["config"].get("max_bytes", -1)
    says = f"{state['messages']} messages, {state['bytes'] / 1e6:.1f} MB"
    if most > 0 and state["bytes"] > most * FULL_SHARE:
        do = "when it is full, new messages are refused: look at its consumers, or raise max_bytes"
        return Finding("warn", f"stream {name}", f"{says} of {most / 1e6:.0f} MB", do)
    if name == subjects.DEAD and state["messages"]:
        return Finding("warn", f"stream {name}", says, "no worker could handle these: read them")
    return Finding("ok", f"stream {name}", says)


def _consumer(stream: str, info: dict[str, Any]) -> Finding:
    pending, waiting = info["num_pending"], info.get("num_waiting", 0)
    says = f"{pending} pending, {info['num_ack_pending']} in work, {waiting} pulls waiting"
    what = f"consumer {info['name']}"
    if pending and not waiting and not info["num_ack_pending"]:
        do = "nobody takes its messages: start a worker (jan worker KIND), or more of them"
        return Finding("fail", what, f"{stream}: {says}", do)
    if info.get("num_redelivered"):
        says += f", {info['num_redelivered']} delivered again"
    return Finding("ok", what, f"{stream}: {says}")


class _Word(msgspec.Struct):
    """What a process says of itself in the bucket `health`."""

    at: float = 0.0
    kind: str = ""
    name: str = ""
    draining: bool = False
    running: int | None = None
    slots: int | None = None
    pools: list[str] = []


async def _present(bus: Bus, providers: Providers) -> AsyncIterator[Finding]:
    words: dict[str, _Word] = {}
    try:
        await _read_bucket(bus, subjects.KV_HEALTH, lambda key, value: _hear(words, key, value))
        catalogue = await _catalogue(bus)
    except BusError as error:
        yield Finding("fail", "presence", str(error), "read nats.log")
        return
    yield _models(catalogue)
    for finding in await _deployments(bus, catalogue or Catalogue()):
        yield finding
    for finding in await _tools(bus):
        yield finding
    for key, word in sorted(words.items()):
        age = time.time() - word.at
        load = f", {word.running} of {word.slots} slots busy" if word.slots else ""
        says = f"heard {max(age, 0):.0f} s ago{load}{', draining' if word.draining else ''}"
        if age > ABSENT_SECONDS:
            yield Finding("warn", f"presence {key}", says, "it is frozen, or was killed just now")
        else:
            yield Finding("ok", f"presence {key}", says)
    alive = [word for word in words.values() if time.time() - word.at <= ABSENT_SECONDS]
    for what in ("edge", "persistence"):
        if not any(word.kind == what for word in alive):
            do = "start one: jan edge" if what == "edge" else "start one: jan worker persistence"
            yield Finding("fail", f"{what} presence", "none is there", do)
    for pool in providers.pools():
        serving = [w for w in alive if w.kind == "inference" and (pool in w.pools or not w.pools)]
        if not serving:
            do = "its jobs wait: start one: jan worker inference"
            yield Finding("fail", f"pool {pool}", "no worker serves it", do)
        else:
            yield Finding("ok", f"pool {pool}", f"{len(serving)} workers")


async def _tools(bus: Bus) -> list[Finding]:
    """One line for each tool that workers have announced."""
    tools: dict[str, Tool] = {}
    switches: dict[str, Switch] = {}

    def take(key: str, value: bytes) -> None:
        kind, _, name = key.partition(".")
        if kind == "tool":
            tools[name] = decode_tool(value)
        elif kind == "switch":
            switches[name] = decode_switch(value)

    await _read_bucket(bus, subjects.KV_TOOLS, take)
    return [_tool(tools[name], switches.get(name, Switch())) for name in sorted(tools)]


def _tool(tool: Tool, switch: Switch) -> Finding:
    what = f"tool {tool.name}"
    if not switch.enabled:
        return Finding("ok", what, "switched off")
    if tool.unavailable:
        return Finding("warn", what, tool.unavailable, "docs/tools.md says what it needs")
    return Finding("ok", what, f"can be called, for {tool.timeout:g} s at most")


async def _deployments(bus: Bus, catalogue: Catalogue) -> list[Finding]:
    """One line for each place that serves a model: what its breaker and the workers say."""
    states: dict[str, DeploymentState] = {}
    workers: list[WorkerFacts] = []
    now = time.time()

    def take(key: str, value: bytes) -> None:
        if key.startswith(f"{DEPLOYMENTS}."):
            state = decode_state(value)
            states[state.deployment] = state
        elif key.startswith("worker.inference."):
            worker = decode_worker(value)
            if now - worker.at <= ABSENT_AFTER:
                workers.append(worker)

    await _read_bucket(bus, subjects.KV_HEALTH, take)
    return [_deployment(one, now) for one in to_provider_list(catalogue, states, workers, now).data]


def _deployment(one: ProviderDeployment, now: float) -> Finding:
    what = f"deployment {one.id}"
    says = f"{one.in_flight} runs, {one.requests} in 5 min, {one.failures} failed"
    if one.first_token.p50 is not None:
        says += f", first token {one.first_token.p50:.2f} s (p95 {one.first_token.p95:.2f} s)"
    if one.breaker.state == "closed":
        return Finding("ok", what, f"works, {says}")
    left = max(0.0, (one.breaker.until or now) - now)
    says = f"{one.breaker.state} for {left:.0f} s ({one.breaker.reason}), {says}"
    return Finding(
        "warn", what, says, "others are tried first; is the provider up and its key right?"
    )


def _hear(words: dict[str, _Word], key: str, value: bytes) -> None:
    if key.startswith(("edge.", "worker.")):
        words[key] = msgspec.json.decode(value, type=_Word)


async def _read_bucket(bus: Bus, name: str, take: Callable[[str, bytes], None]) -> None:
    def on_change(key: str, value: bytes | None, revision: int) -> None:  # noqa: ARG001
        if value is not None:
            take(key, value)

    watch = await Bucket(bus, name).watch(on_change)
    await watch.stop()


async def _catalogue(bus: Bus) -> Catalogue | None:
    entry = await Bucket(bus, subjects.KV_MODELS).get(subjects.CATALOGUE_KEY)
    return decode_catalogue(entry.value) if entry else None


def _models(catalogue: Catalogue | None) -> Finding:
    if catalogue is None or not catalogue.models:
        return Finding("fail", "catalogue", "no model is listed", "write it: jan migrate")
    names = [model.id for model in catalogue.models]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return Finding("ok", "catalogue", ", ".join(names[:5]) + more)


async def _database(state: State) -> Finding:
    from sqlalchemy import text  # noqa: PLC0415 - slow to import
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from workers.persistence.database import describe, open_engine  # noqa: PLC0415

    try:
        engine = open_engine(state.database_url, pool_size=1)
    except (Exit, ValueError) as error:
        return Finding("fail", "postgres", str(error), "start the server: ./jan up")
    try:
        async with engine.connect() as connection:
            version = (await connection.execute(text("SHOW server_version"))).scalar_one()
            tables = await connection.execute(text("SELECT version_num FROM alembic_version"))
            revision = tables.scalar_one_or_none()
    except (SQLAlchemyError, OSError) as error:
        do = "generation goes on without it; read postgres.log, then jan migrate"
        return Finding("fail", "postgres", describe(error), do)
    finally:
        await engine.dispose()
    return Finding("ok", "postgres", f"{version}, tables at {revision}")


def _edge(url: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=TIMEOUT) as answer:  # noqa: S310
            status = str(msgspec.json.decode(answer.read()).get("status", "ready"))
    except urllib.error.HTTPError as error:
        says = error.read().decode(errors="replace")[:300]
        return Finding("fail", f"edge {url}", f"{error.code} {says}", "see the parts above")
    except (OSError, msgspec.DecodeError) as error:
        says = str(getattr(error, "reason", error))
        return Finding("fail", f"edge {url}", says, "read its log, and look for a proxy in between")
    if status == "degraded":
        return Finding("warn", f"edge {url}", status, "see the parts above")
    return Finding("ok", f"edge {url}", status)


_REMOTE = "is it up, and are base_url and api_key right?"
_IN_PROCESS = "put it right, then ./jan up; docs/engines.md says what it needs"


async def _engines(providers: Providers) -> AsyncIterator[Finding]:
    from workers.inference.engines import ENGINES  # noqa: PLC0415 - as above

    for provider in providers.providers:
        what = f"provider {provider.name}"
        if provider.kind not in ENGINES:
            kinds = ", ".join(sorted(ENGINES))
            yield Finding("fail", what, f"no engine for {provider.kind}", f"use one of {kinds}")
            continue
        engine = ENGINES[provider.kind](provider)
        try:
            await asyncio.wait_for(engine.check(), TIMEOUT * 2)
            yield Finding("ok", what, f"{provider.kind}, {len(provider.models)} models")
        except (JanError, OSError, TimeoutError) as error:
            do = _IN_PROCESS if provider.in_process else _REMOTE
            yield Finding("fail", what, str(error) or type(error).__name__, do)
        finally:
            await engine.close()
