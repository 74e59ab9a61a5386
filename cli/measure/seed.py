"""Fills a database with many conversations and items, as commands would have written them.

`python -m cli.measure.seed --data DATA --items 2000000`; the rows go in by COPY.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg

from cli.state import load
from schemas import ids

CONVERSATIONS = 100_000
ITEMS = 2_000_000
PRINCIPALS = 1000
_STEP = 2000  # conversations that are written with one COPY
_FORKS = 50  # every so many conversations, one has a second branch
_WORDS = (
    *("harbour", "lantern", "gravel", "copper", "thistle", "meadow", "ribbon", "anchor", "velvet"),
    *("cinder", "orchard", "pebble", "saddle", "timber", "walnut", "furrow", "kettle", "mortar"),
)
_CONVERSATION = (
    "id, principal, version, title, title_locked, metadata, project_id, active_branch,"
    " next_position, created_at, updated_at"
)
_BRANCH = "conversation_id, name, principal, version, parent, forked_at, segments, created_at"
_ITEM = (
    "id, conversation_id, branch, position, principal, version, type, role, content, text,"
    " created_at"
)
_START = datetime(2026, 1, 1, tzinfo=UTC)


async def seed(
    url: str,
    *,
    principals: int = PRINCIPALS,
    conversations: int = CONVERSATIONS,
    items: int = ITEMS,
    owner: str = "",
) -> None:
    """Add so many conversations and items; `owner` has the first of every thousand."""
    each = items // conversations
    address = url.replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(address) as connection:
        await connection.execute("SET synchronous_commit = off")
        for first in range(0, conversations, _STEP):
            numbers = range(first, min(first + _STEP, conversations))
            made = [(n, ids.new_id("conv_"), _principal(n, principals, owner)) for n in numbers]
            await _copy(connection, "conversations", _CONVERSATION, _conversations(made, each))
            await _copy(connection, "conversation_branches", _BRANCH, _branches(made, each))
            await _copy(connection, "conversation_items", _ITEM, _items(made, each))
            await connection.commit()
        await connection.set_autocommit(True)
        for table in ("conversations", "conversation_branches", "conversation_items"):
            await connection.execute(f"VACUUM ANALYZE {table}".encode())


def _principal(number: int, principals: int, owner: str) -> str:
    if owner and number % 1000 == 0:
        return owner
    return f"user_seed{number % principals}"


Made = list[tuple[int, str, str]]


def _conversations(made: Made, each: int) -> Iterator[tuple[Any, ...]]:
    for n, conversation_id, principal in made:
        title = f"About {_WORDS[n % len(_WORDS)]} {n}"
        project = f"proj_{n % 7}" if n % 3 == 0 else None
        at = _START + timedelta(seconds=n)
        last = each + (each // 2 if n % _FORKS == 0 else 0)
        yield (
            *(conversation_id, principal, 1, title, True, "{}", project, "main", last),
            *(at, at),
        )


def _branches(made: Made, each: int) -> Iterator[tuple[Any, ...]]:
    for n, conversation_id, principal in made:
        at = _START + timedelta(seconds=n)
        yield conversation_id, "main", principal, 1, None, None, '[["main", null]]', at
        if n % _FORKS == 0:
            half = each // 2
            segments = f'[["main", {half}], ["fork", null]]'
            yield conversation_id, "fork", principal, 1, "main", half, segments, at


def _items(made: Made, each: int) -> Iterator[tuple[Any, ...]]:
    for n, conversation_id, principal in made:
        at = _START + timedelta(seconds=n)
        for position in range(each):
            yield _item((n, conversation_id, principal), position, "main", at)
        if n % _FORKS == 0:
            for position in range(each, each + each // 2):
                yield _item((n, conversation_id, principal), position, "fork", at)


def _item(
    conversation: tuple[int, str, str], position: int, branch: str, at: datetime
) -> tuple[Any, ...]:
    n, conversation_id, principal = conversation
    item_id = ids.new_id("msg_")
    picked = [_WORDS[(n * 7 + position * 3 + k * k) % len(_WORDS)] for k in range(12)]
    text, role = " ".join(picked), "assistant" if position % 2 else "user"
    part = {"type": "output_text" if role == "assistant" else "input_text", "text": text}
    content = {"id": item_id, "type": "message", "role": role, "content": [part]}
    return (
        *(item_id, conversation_id, branch, position, principal, 1, "message", role),
        *(msgspec.json.encode(content), text, at),
    )


async def _copy(
    connection: psycopg.AsyncConnection[Any],
    table: str,
    columns: str,
    rows: Iterator[tuple[Any, ...]],
) -> None:
    async with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copy,
    ):
        for row in rows:
            await copy.write_row(row)


def main() -> None:
    """Seed the database of a running server."""
    parser = argparse.ArgumentParser(prog="python -m cli.measure.seed", description=__doc__)
    parser.add_argument("--data", default=".jan", help="the server's data folder")
    parser.add_argument("--conversations", type=int, default=CONVERSATIONS)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--owner", default="", help="whose every thousandth conversation is")
    given = parser.parse_args()
    began = time.monotonic()
    url = load(given.data).database_url
    asyncio.run(seed(url, conversations=given.conversations, items=given.items, owner=given.owner))
    print(f"seeded in {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
