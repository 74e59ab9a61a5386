"""Where the facts about stored things lie in the log."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.events import StateChanged
from workers.persistence.facts import Fact
from workers.persistence.statements import Statement

Row = dict[str, Any]

_INSERT = Statement(
    "INSERT INTO entity_events (entity, seq, verb, principal, at) SELECT * FROM unnest("
    "CAST(:entity AS text[]), CAST(:seq AS int8[]), CAST(:verb AS text[]),"
    " CAST(:principal AS text[]), CAST(:at AS timestamptz[])) ON CONFLICT DO NOTHING"
)


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
        ordered = sorted(rows, key=lambda row: row["seq"])
        await _INSERT.run(connection, {name: [row[name] for row in ordered] for name in ordered[0]})
