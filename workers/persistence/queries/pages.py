"""Pages of a list: a keyset on a sortable column, in either direction, from a row on."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api.lists import Paging, encode_page
from schemas.errors import InvalidRequest


class Page(NamedTuple):
    """Rows in the asked-for order, and whether there are more beyond them."""

    rows: list[Row[Any]]
    has_more: bool


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
    ascending = paging.order == "asc"
    backwards = before is not None and after is None
    if after is not None:
        question = question.where(column > after if ascending else column < after)
    if before is not None:
        question = question.where(column < before if ascending else column > before)
    upwards = ascending != backwards
    ordered = question.order_by(column.asc() if upwards else column.desc())
    rows = list((await connection.execute(ordered.limit(paging.limit + 1))).all())
    has_more = len(rows) > paging.limit
    rows = rows[: paging.limit]
    return Page(rows[::-1] if backwards else rows, has_more)


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
