"""`python -m cli.measure.figures`: what stored state takes, on a server of its own.

Fills a database, then loads it with reads and writes, then times the projection of many runs.
"""

import argparse
import asyncio
import os
import sys
import time

import msgspec
import psycopg

from cli.launch import LaunchedServer, launched
from cli.measure import cpu, projection, stored
from cli.measure.seed import CONVERSATIONS, ITEMS, seed

LOADS = tuple(
    (load, in_flight)
    for load in ("get", "items", "list", "search", "append")
    for in_flight in (1, 16)
)
SECONDS = 5.0
WARM_UP_SECONDS = 2.0


def main() -> None:
    """Measure and print a line for each load."""
    parser = argparse.ArgumentParser(prog="python -m cli.measure.figures", description=__doc__)
    parser.add_argument("--conversations", type=int, default=CONVERSATIONS)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--runs", type=int, default=projection.RUNS, help="of the projection")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long each load runs")
    given = parser.parse_args()
    with launched("--inference", "0") as server:
        asyncio.run(measure(server, given))


async def measure(server: LaunchedServer, given: argparse.Namespace) -> None:
    """Run everything, one after the other."""
    key = server.create_key()
    await stored.create_conversations(server.url, key, 1)
    began = time.monotonic()
    owner = _query(server, "SELECT principal FROM conversations LIMIT 1")[0]
    sizes = {"conversations": given.conversations, "items": given.items}
    await seed(server.state.database_url, owner=owner, **sizes)
    _say(f"{given.items} items in {time.monotonic() - began:.0f} s")
    own = _query(server, "SELECT id FROM conversations WHERE principal = %s", owner)
    await _load(server, key, own, "get", 4, WARM_UP_SECONDS)
    for load, in_flight in LOADS:
        await _load(server, key, own, load, in_flight, given.seconds)
    found = await projection.measure(server, given.runs)
    print(msgspec.json.encode(found).decode())


async def _load(  # noqa: PLR0917 - what a load is
    server: LaunchedServer, key: str, own: list[str], load: str, in_flight: int, seconds: float
) -> None:
    before = cpu.by_kind(server.processes())
    row = await stored.measure(load, server.url, key, own, in_flight=in_flight, seconds=seconds)
    after = cpu.by_kind(server.processes())
    used = {kind: round((after[kind] - before[kind]) * 1e6 / row.requests) for kind in after}
    print(f"{msgspec.json.encode(row).decode()} us each: {used}, load {os.getloadavg()[0]:.1f}")


def _query(server: LaunchedServer, statement: str, *values: str) -> list[str]:
    address = server.state.database_url.replace("+psycopg", "")
    with psycopg.connect(address) as connection:
        return [row[0] for row in connection.execute(statement.encode(), values).fetchall()]


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
