"""What many ask for at the same time by ids: one statement finds each asker's own."""

from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Table, Text, and_, bindparam, func, or_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from workers.persistence.statements import Statement

ASKED = (
    func.unnest(
        bindparam("ids", type_=ARRAY(Text)),
        bindparam("principals", type_=ARRAY(Text)),
    )
    .table_valued("id", "principal", with_ordinality="number")
    .render_derived(name="asked")
)
"""Who asks for what; a statement's rows say by `number` which of them they are for."""


def is_asked(table: Table) -> ColumnElement[bool]:
    """The condition that a row is there, and its asker's. The operator sees everybody's."""
    return and_(
        table.c.id == ASKED.c.id,
        table.c.deleted_at.is_(None),
        or_(ASKED.c.principal.is_(None), table.c.principal == ASKED.c.principal),
    )


class _AskOne(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def principal(self) -> str | None: ...


async def find_asked(
    connection: AsyncConnection, statement: Statement, asks: Sequence[_AskOne]
) -> list[Any]:
    """Run a statement over `ASKED` that has one row for each at most: the row, or None."""
    values = {"ids": [ask.id for ask in asks], "principals": [ask.principal for ask in asks]}
    rows = await statement.all(connection, values)
    found = {row.number: row for row in rows}
    return [found.get(number) for number in range(1, len(asks) + 1)]
