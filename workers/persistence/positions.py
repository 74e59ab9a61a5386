"""How far the database has come in the log, exactly, while several workers share the work.

Batches are committed in any order, so the highest sequence says little. What is kept is the set of
all sequences that were taken in, as ranges: one range, but for the moments in which a worker is
ahead of another, or when messages were erased from the log before anybody read them.
"""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from workers.persistence.statements import Statement

_FIRST_END = (
    "(SELECT upper(stretch) - 1 FROM unnest(applied) AS stretch ORDER BY lower(stretch) LIMIT 1)"
)
_ADVANCE = Statement(
    "INSERT INTO projection_positions AS p (name, applied)"  # noqa: S608 - own words
    " VALUES (:name, CAST(:applied AS int8multirange))"
    " ON CONFLICT (name) DO UPDATE SET applied = p.applied + excluded.applied"
    f" RETURNING {_FIRST_END}"
)
_IS_ERASED = text(
    "SELECT applied @> int8range(1, CAST(:first AS int8))"
    " FROM projection_positions WHERE name = 'erased'"
)
_REACHED = Statement(
    f"SELECT {_FIRST_END} FROM projection_positions WHERE name = 'log'"  # noqa: S608 - own words
)
_HAS_HOLES = text(
    "SELECT 1 FROM projection_positions WHERE name = 'log'"
    " AND applied <> int8multirange(range_merge(applied))"
)
_FILL = text(
    "UPDATE projection_positions"
    " SET applied = applied + int8multirange(int8range(lower(applied), CAST(:seq AS int8), '[]'))"
    " WHERE name = 'log' AND lower(applied) <= :seq"
)


async def advance(connection: AsyncConnection, sequences: Sequence[int]) -> int:
    """Note that these were taken in, in the caller's transaction; return what is reached then."""
    values = {"name": "log", "applied": to_multirange(sequences)}
    return int(await _ADVANCE.scalar(connection, values) or 0)


async def note_erased(connection: AsyncConnection, sequences: Sequence[int]) -> None:
    """Note that these are missing from the log for a reason, in the caller's transaction."""
    await _ADVANCE.run(connection, {"name": "erased", "applied": to_multirange(sequences)})


async def is_whole(connection: AsyncConnection, first: int) -> bool:
    """Tell whether a log that begins with `first` lacks nothing but what was erased."""
    return first <= 1 or bool(await connection.scalar(_IS_ERASED, {"first": first}))


async def reached(connection: AsyncConnection) -> int:
    """The sequence up to which everything was taken in; 0: nothing was."""
    return int(await _REACHED.scalar(connection, {}) or 0)


async def has_holes(connection: AsyncConnection) -> bool:
    """Tell whether something before the newest sequence was not taken in (yet)."""
    return bool(await connection.scalar(_HAS_HOLES))


async def fill(connection: AsyncConnection, seq: int) -> None:
    """Note that nothing up to `seq` is left to be taken in: the rest was erased from the log."""
    await connection.execute(_FILL, {"seq": seq})


def to_multirange(sequences: Sequence[int]) -> str:
    """Write a set of sequences as PostgreSQL's int8multirange: `{[1,4),[7,8)}`."""
    ranges: list[list[int]] = []
    for seq in sorted(set(sequences)):
        if ranges and ranges[-1][1] == seq:
            ranges[-1][1] = seq + 1
        else:
            ranges.append([seq, seq + 1])
    return "{" + ",".join(f"[{first},{end})" for first, end in ranges) + "}"
