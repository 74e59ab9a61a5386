"""What responses take: beside chats, with tools, and many in the background at once.

On a server of their own, whose simulated engine takes no time and whose tool takes 200 ms.
"""

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import msgspec
import psutil

from cli.exits import Exit
from cli.launch import LaunchedServer, launched
from cli.measure import slow_tool
from cli.measure.scenarios import quantile
from cli.measure.stored import Client
from cli.state import Process

TOGETHER = 500
_CONNECTIONS = 32
_LOOK_AGAIN = 0.1  # seconds
_PATIENCE = 300.0  # seconds for all of a crowd
_CALLS = 4  # of a round
_MEBI = 1 << 20

_PROVIDERS = """
providers:
  - name: simulated
    kind: simulated
    options: {seed: 1, ttft_ms: 0, token_ms: 0, tokens: 16, cues: true}
    models:
      - {id: bench, capabilities: [chat, tools]}
"""
_TOOLS = [{"type": "mcp", "server_label": "slow", "require_approval": "never"}]


class Lone(msgspec.Struct):
    """One kind of request, one at a time; times in milliseconds."""

    what: str
    requests: int
    failed: int
    p50: float
    p99: float


class Crowd(msgspec.Struct):
    """Responses in the background, all at once; memory of each kind of process in MiB."""

    asked: int
    completed: int
    accepted_seconds: float
    seconds: float
    memory_before: dict[str, float]
    memory_after: dict[str, float]


class Figures(msgspec.Struct):
    """All of it. `ratio` is a response's time without tools by a chat's, both p50."""

    alone: list[Lone]
    ratio: float
    together: Crowd

    @property
    def failed(self) -> bool:
        """Whether anything did not come to its end."""
        return any(one.failed for one in self.alone) or self.together.completed < TOGETHER


async def measure(seconds: float) -> Figures:
    """Start the server, and measure everything; chats and plain responses in turn."""
    with _serving() as server:
        key = await asyncio.to_thread(server.create_key)
        client = Client(server.url, key)
        kinds = (_chat(), _response("response", 0))
        await _in_turn(client, kinds, 1.0)  # to warm up
        chat, plain = await _in_turn(client, kinds, seconds)
        rounds = [
            await _in_turn(client, (_response(name, count),), seconds)
            for name, count in (("one round of tools", 1), ("three rounds of tools", 3))
        ]
        client.close()
        together = await _crowd(server, key)
    lone = [chat, plain, *(one for found in rounds for one in found)]
    return Figures(lone, plain.p50 / chat.p50 if chat.p50 else 0.0, together)


def print_figures(found: Figures, out: TextIO) -> None:
    """Print them for people."""
    crowd = found.together
    lines = ["", f"{'one at a time':<24}{'requests':>10}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}"]
    lines += [
        f"{one.what:<24}{one.requests:>10}{one.p50:>9.1f}{one.p99:>9.1f}{one.failed:>8}"
        for one in found.alone
    ]
    lines += [
        f"\na response without tools takes {found.ratio:.2f} times as long as a chat",
        f"\n{crowd.asked} in the background at once: accepted within "
        f"{crowd.accepted_seconds:.1f} s, {crowd.completed} completed within {crowd.seconds:.1f} s",
        f"\n{'memory, MiB':<24}{'before':>10}{'after':>9}",
    ]
    after = crowd.memory_after
    lines += [
        f"{kind:<24}{size:>10.1f}{after.get(kind, 0.0):>9.1f}"
        for kind, size in sorted(crowd.memory_before.items())
    ]
    print("\n".join(lines), file=out)


@contextmanager
def _serving() -> Iterator[LaunchedServer]:
    with TemporaryDirectory() as folder:
        providers, tools = Path(folder) / "providers.yaml", Path(folder) / "mcp.yaml"
        providers.write_text(_PROVIDERS)
        program = {"command": sys.executable, "args": [slow_tool.__file__]}
        # JSON is YAML too.
        tools.write_bytes(msgspec.json.encode({"servers": [{"label": "slow", **program}]}))
        with launched("--providers", str(providers), env={"JAN_MCP_FILE": str(tools)}) as server:
            yield server


Asked = tuple[str, str, dict[str, Any]]  # what it is, its path, its body


def _chat() -> Asked:
    messages = [{"role": "user", "content": "Go on."}]
    return "chat", "/chat/completions", {"model": "bench", "messages": messages}


def _response(what: str, rounds: int, **more: Any) -> Asked:
    body: dict[str, Any] = {"model": "bench", "input": "Go on.", "store": False} | more
    if rounds:
        calls = ["!tool wait {}"] * _CALLS
        body |= {"input": "\n".join([*calls, f"!rounds {rounds}"]), "tools": _TOOLS}
    return what, "/responses", body


async def _in_turn(client: Client, kinds: Iterable[Asked], seconds: float) -> list[Lone]:
    """Ask for one after the other, in turn, for so many seconds."""
    times: dict[str, list[float]] = {what: [] for what, _, _ in kinds}
    failed = dict.fromkeys(times, 0)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for what, path, body in kinds:
            began = time.perf_counter()
            status, answer = await client.request("POST", path, body)
            times[what].append((time.perf_counter() - began) * 1000)
            failed[what] += status != 200 or b'"status":"failed"' in answer
    return [
        Lone(what, len(taken), failed[what], quantile(taken, 0.5), quantile(taken, 0.99))
        for what, taken in times.items()
    ]


async def _crowd(server: LaunchedServer, key: str) -> Crowd:
    """Ask for many at once, and wait until all have ended."""
    before, began = _memory(server.processes()), time.monotonic()
    _, path, body = _response("background", 0, store=True, background=True)
    waiting = [body] * TOGETHER
    ids: list[str] = []
    completed = 0

    async def ask(client: Client) -> None:
        while waiting:
            status, answer = await client.request("POST", path, waiting.pop())
            if status != 200:
                raise Exit(f"a background response was refused with {status}: {answer[:200]!r}")
            ids.append(msgspec.json.decode(answer)["id"])

    async def look(client: Client) -> None:
        nonlocal completed
        while ids:
            one = ids.pop()
            while (status := await _status(client, one)) in ("queued", "in_progress"):
                if time.monotonic() - began > _PATIENCE:
                    return
                await asyncio.sleep(_LOOK_AGAIN)
            completed += status == "completed"

    clients = [Client(server.url, key) for _ in range(_CONNECTIONS)]
    await asyncio.gather(*map(ask, clients))
    accepted = time.monotonic() - began
    await asyncio.gather(*map(look, clients))
    took = time.monotonic() - began
    for client in clients:
        client.close()
    after = _memory(server.processes())
    return Crowd(TOGETHER, completed, accepted, took, before, after)


async def _status(client: Client, response_id: str) -> str:
    _, answer = await client.request("GET", f"/responses/{response_id}")
    return str(msgspec.json.decode(answer)["status"])


def _memory(processes: Iterable[Process]) -> dict[str, float]:
    """What each kind of process has for itself, in MiB."""
    used: dict[str, float] = {}
    for process in processes:
        one = psutil.Process(process.pid)
        family = [one, *(one.children(recursive=True) if process.kind == "postgres" else ())]
        size = sum(member.memory_full_info().uss for member in family)
        used[process.kind] = used.get(process.kind, 0.0) + size / _MEBI
    return used
