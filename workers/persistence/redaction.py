"""Redaction: of what was deleted inside a conversation, what has to go from its facts, and where.

An item and a share's snapshot lie in facts that say other things too. Such a fact is told once more
without them, and then overwritten. Rows carry versions, so the repeat changes no table.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Text, any_, bindparam, func, select, union_all, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.events import StateChanged, decode_state_changed
from workers.persistence.projections import entities
from workers.persistence.tables import (
    conversation_items,
    entity_events,
    erasures,
    processed_commands,
    shares,
)

_AT_ONCE: Final = 1000
_CONTENT: Final = {"conversation_items": "content", "shares": "snapshot"}
_NULL: Final = b"null"
_SKEW: Final = timedelta(minutes=1)  # between the clocks of those who make items and tell facts


class Parts(NamedTuple):
    """What was deleted inside a conversation, and the runs that it came from."""

    within: str
    ids: frozenset[str]
    run_ids: Sequence[str]


class Redacted(NamedTuple):
    """A fact that was overwritten: where it lay, and where it lies now without what is gone."""

    seq: int
    now: entities.Row | None  # None: nothing is known of that, a worker got so far before


async def find_parts(connection: AsyncConnection, within: str) -> Parts:
    """Find what of a conversation has to go, so many at most."""
    asked = await connection.scalars(_ASKED, {"within": within})
    ids = asked.all()
    runs = await connection.scalars(_RUNS, {"ids": ids})
    return Parts(within, frozenset(ids), sorted(runs))


async def find_facts(connection: AsyncConnection, parts: Parts) -> list[int]:
    """Where facts lie that may have them: those about the conversation from their making on."""
    found = await connection.scalars(_FACTS, {"within": parts.within, "ids": sorted(parts.ids)})
    return list(found)


async def note_done(
    connection: AsyncConnection, parts: Parts, redacted: Sequence[Redacted]
) -> None:
    """Note that they are gone from facts; what the facts' commands answered goes as well.

    Where those lie now is noted here too: an erasure of the whole conversation may come next.
    """
    done = processed_commands.c
    seqs = [fact.seq for fact in redacted]
    of_facts = update(processed_commands).where(done.entity == parts.within, done.seq.in_(seqs))
    await connection.execute(of_facts.values(answer=None))
    await entities.write_rows(connection, [fact.now for fact in redacted if fact.now is not None])
    await connection.execute(_DONE, {"ids": sorted(parts.ids)})


def redact(data: bytes, ids: Iterable[str]) -> StateChanged | None:
    """A fact without the rows that have what was deleted; None if there are none in it."""
    event = decode_state_changed(data)
    gone = {msgspec.json.encode(one) for one in ids}
    rows = {
        table: [row for row in told if not _has_content(table, row, gone)]
        for table, told in event.rows.items()
    }
    if rows == event.rows:
        return None
    return msgspec.structs.replace(event, rows={name: told for name, told in rows.items() if told})


def _has_content(table: str, row: dict[str, msgspec.Raw], gone: set[bytes]) -> bool:
    column = _CONTENT.get(table)
    if column is None or bytes(row["id"]) not in gone:
        return False
    return bytes(row.get(column, _NULL)) != _NULL  # a tombstone stays


_named = any_(bindparam("ids", type_=ARRAY(Text)))
_ASKED = (
    select(erasures.c.entity)
    .where(erasures.c.within == bindparam("within"), erasures.c.done_at.is_(None))
    .order_by(erasures.c.entity)
    .limit(_AT_ONCE)
)
_RUNS = (
    select(conversation_items.c.run_id)
    .where(conversation_items.c.id == _named, conversation_items.c.run_id.is_not(None))
    .distinct()
)
_made = union_all(
    select(conversation_items.c.created_at).where(conversation_items.c.id == _named),
    select(shares.c.created_at).where(shares.c.id == _named),
).subquery()
_FACTS = (
    select(entity_events.c.seq)
    .where(
        entity_events.c.entity == bindparam("within"),
        ~entity_events.c.verb.like("%deleted"),
        # None of a conversation that is gone: then all of it is erased.
        entity_events.c.at >= select(func.min(_made.c.created_at) - _SKEW).scalar_subquery(),
    )
    .order_by(entity_events.c.seq)
)
_DONE = update(erasures).where(erasures.c.entity == _named).values(done_at=func.now())
