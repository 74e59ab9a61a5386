"""Reading whole conversations, page by page: every branch, or what one of them is made of."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api.lists import MAX_PAGE_BYTES
from schemas.commands import encode
from schemas.errors import NotFound
from schemas.queries.conversations import AskExport, ExportPage
from workers.persistence.changes import Row, to_row
from workers.persistence.queries.conversations import is_in, is_owned, read_segments
from workers.persistence.tables import conversation_branches, conversation_items, conversations

_ITEMS = 200  # of a page


async def read_export(connection: AsyncConnection, ask: AskExport) -> ExportPage:
    """A page of a conversation's items, with its head. Raises NotFound."""
    question = select(*[column for column in conversations.c if column.computed is None]).where(
        is_owned(ask.conversation, ask.principal)
    )
    found = (await connection.execute(question)).first()
    if found is None:
        raise NotFound(f"there is no conversation {ask.conversation}")
    row = to_row(found._mapping)
    upto = row["next_position"] if ask.upto is None else ask.upto
    items, last, has_more = await _read_items(connection, row, ask, upto)
    is_first = ask.after_position < 0
    return ExportPage(
        conversation=msgspec.Raw(encode(_to_head(row))),
        branches=msgspec.Raw(encode(await _read_branches(connection, row) if is_first else [])),
        items=items,
        active_branch=row["active_branch"],
        title=row["title"],
        upto=upto,
        last=last,
        has_more=has_more,
    )


def _to_head(row: Row) -> dict[str, object]:
    return {
        "id": row["id"],
        "created_at": int(row["created_at"]),
        "updated_at": int(row["updated_at"]),
        **{
            name: row[name]
            for name in (
                "title",
                "title_locked",
                "metadata",
                "referrer",
                "active_branch",
            )
        },
    }


async def _read_branches(connection: AsyncConnection, row: Row) -> list[dict[str, object]]:
    table = conversation_branches.c
    question = (
        select(
            table.name,
            table.description,
            table.parent.label("parent_branch"),
            table.segments,
        )
        .where(table.conversation_id == row["id"], table.deleted_at.is_(None))
        .order_by(table.created_at, table.name)
    )
    return [dict(found._mapping) for found in await connection.execute(question)]


async def _read_items(
    connection: AsyncConnection, row: Row, ask: AskExport, upto: int
) -> tuple[list[msgspec.Raw], int, bool]:
    """Items of a page, the position of the last one, and whether there are more."""
    table = conversation_items.c
    wanted = [
        table.conversation_id == row["id"],
        table.position > ask.after_position,
        table.position < upto,
        table.deleted_at.is_(None),
    ]
    if ask.branch is not None:
        segments = await read_segments(connection, row["id"], ask.principal, ask.branch)
        wanted.append(is_in(segments))
    question = select(table.position, func.octet_length(table.content)).where(*wanted)
    places = list(await connection.execute(question.order_by(table.position).limit(_ITEMS + 1)))
    kept = _kept([size for _, size in places])
    if not kept:
        return [], ask.after_position, False
    last = places[kept - 1].position
    contents = select(table.branch, table.position, table.content).where(
        *wanted, table.position <= last
    )
    items = [
        msgspec.Raw(
            b'{"branch":%b,"position":%d,"item":%b}'
            % (encode(found.branch), found.position, found.content)
        )
        for found in await connection.execute(contents.order_by(table.position))
    ]
    return items, last, kept < len(places)


def _kept(sizes: Sequence[int]) -> int:
    """How many items fit into a page; one always does."""
    whole = 0
    for kept, size in enumerate(sizes[:_ITEMS]):
        whole += size
        if kept and whole > MAX_PAGE_BYTES:
            return kept
    return len(sizes[:_ITEMS])
