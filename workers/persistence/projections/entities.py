"""Where the facts about stored things lie in the log."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.events import StateChanged
from workers.persistence.facts import Fact
from workers.persistence.tables import entity_events

Row = dict[str, Any]

_INSERT = insert(entity_events).on_conflict_do_nothing()


def to_row(fact: Fact, event: StateChanged) -> Row:
    """Say where a fact lies."""
    return {
        "entity": event.entity,
        "seq": fact.seq,
        "verb": f"{fact.noun}.{fact.verb}",
        "principal": event.principal,
        "at": datetime.fromtimestamp(event.at, UTC),
    }


async def write_rows(connection: AsyncConnection, rows: Sequence[Row]) -> None:
    """Write them, each once, inside the caller's transaction."""
    if rows:
        await connection.execute(_INSERT, sorted(rows, key=lambda row: row["seq"]))
