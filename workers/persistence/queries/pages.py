"""Pages of a list: a keyset on a sortable column, in either direction, from a row on."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api.lists import Paging, encode_page
from schemas.errors import InvalidRequest


class Page(NamedTuple):
    """Rows in the asked-for order, and whether there are more beyond them."""

    rows: list[Any]
    has_more: bool


class Stretch(NamedTuple):
    """Where rows are read: between two values of a column, and in which direction."""

    above: Any
    below: Any
    upwards: bool


class OwnedList(NamedTuple):
    """A list of one principal's objects, which are called `noun`."""

    table: Table
    noun: str
    principal: str | None
    paging: Paging


Encode = Callable[[Row[Any]], bytes]


async def read_page(
    connection: AsyncConnection,
    question: Select[Any],
    column: ColumnElement[Any],
    paging: Paging,
    *,
    after: Any = None,
    before: Any = None,
) -> Page:
    """Read the page that follows `after`, or ends before `before` (values of the column)."""
    stretch = to_stretch(paging, after, before)
    if stretch.above is not None:
        question = question.where(column > stretch.above)
    if stretch.below is not None:
        question = question.where(column < stretch.below)
    ordered = question.order_by(column.asc() if stretch.upwards else column.desc())
    rows = (await connection.execute(ordered.limit(paging.limit + 1))).all()
    return to_page(rows, paging, stretch)


def to_stretch(paging: Paging, after: Any, before: Any) -> Stretch:
    """Say where the page that follows `after`, or ends before `before`, lies."""
    ascending = paging.order == "asc"
    backwards = before is not None and after is None
    above, below = (after, before) if ascending else (before, after)
    return Stretch(above, below, ascending != backwards)


def to_page(rows: Sequence[Any], paging: Paging, stretch: Stretch) -> Page:
    """Put rows that were read along a stretch, one more than wanted, into the asked-for order."""
    wanted = list(rows[: paging.limit])
    in_order = stretch.upwards == (paging.order == "asc")
    return Page(wanted if in_order else wanted[::-1], len(rows) > paging.limit)


async def read_owned(
    connection: AsyncConnection, question: Select[Any], list_: OwnedList, encode: Encode
) -> bytes:
    """The page of a principal's objects, by their age, as it is served. Raises InvalidRequest."""
    table, paging = list_.table, list_.paging
    await _require_cursors(connection, list_)
    page = await read_page(
        connection, question, table.c.id, paging, after=paging.after, before=paging.before
    )
    objects = [encode(row) for row in page.rows]
    return encode_page([row.id for row in page.rows], objects, has_more=page.has_more)


async def _require_cursors(connection: AsyncConnection, list_: OwnedList) -> None:
    """A principal's object marks a place, also a deleted one. Raises InvalidRequest."""
    table = list_.table
    for param in ("after", "before"):
        cursor = getattr(list_.paging, param)
        if cursor is None:
            continue
        question = select(table.c.id).where(
            table.c.id == cursor, table.c.principal == list_.principal
        )
        if (await connection.execute(question.limit(1))).first() is None:
            raise InvalidRequest(f"'{param}': there is no {list_.noun} {cursor}", param=param)
