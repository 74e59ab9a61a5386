"""Reading the branches of a conversation. Every query is scoped by the principal."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api.conversations import Branch
from schemas.api.lists import encode_page
from schemas.commands import encode
from schemas.errors import NotFound
from schemas.queries.conversations import AskBranch
from workers.persistence.changes import Row, to_row
from workers.persistence.queries.conversations import is_owned
from workers.persistence.tables import conversation_branches, conversation_items, conversations

Positions = dict[str, list[int]]  # of the items that are stored with each branch


async def list_branches(connection: AsyncConnection, ask: AskBranch) -> bytes:
    """All branches of a conversation, oldest first. Raises NotFound."""
    row = await _find_conversation(connection, ask)
    branches = await _to_branches(connection, row, await _read_rows(connection, ask))
    return encode_page(
        [branch.name for branch in branches], list(map(encode, branches)), has_more=False
    )


async def get_branch(connection: AsyncConnection, ask: AskBranch) -> Branch:
    """One branch of a conversation. Raises NotFound."""
    row = await _find_conversation(connection, ask)
    for branch in await _read_rows(connection, ask):
        return await to_branch(connection, row, branch)
    raise NotFound(f"the conversation has no branch {ask.name!r}", param="branch")


async def to_branch(connection: AsyncConnection, row: Row, branch: Row) -> Branch:
    """A branch of a conversation as it is served."""
    return (await _to_branches(connection, row, [branch]))[0]


async def _find_conversation(connection: AsyncConnection, ask: AskBranch) -> Row:
    question = select(conversations.c.id, conversations.c.active_branch).where(
        is_owned(ask.conversation, ask.principal)
    )
    found = (await connection.execute(question)).first()
    if found is None:
        raise NotFound(f"there is no conversation {ask.conversation}")
    return to_row(found._mapping)


async def _read_rows(connection: AsyncConnection, ask: AskBranch) -> list[Row]:
    table = conversation_branches.c
    question = select(*table).where(
        table.conversation_id == ask.conversation, table.deleted_at.is_(None)
    )
    if ask.name is not None:
        question = question.where(table.name == ask.name)
    found = await connection.execute(question.order_by(table.created_at, table.name))
    return [to_row(branch._mapping) for branch in found]


async def _to_branches(
    connection: AsyncConnection, row: Row, branches: Sequence[Row]
) -> list[Branch]:
    positions = await _read_positions(connection, row["id"])
    shared = await _read_shared(connection, row["id"], branches)
    return [
        Branch(
            name=branch["name"],
            description=branch["description"],
            parent_branch=branch["parent"],
            forked_from_item_id=shared.get(_last_shared(branch)),
            item_count=sum(_count(positions, *segment) for segment in branch["segments"]),
            is_active=branch["name"] == row["active_branch"],
            created_at=int(branch["created_at"]),
        )
        for branch in branches
    ]


async def _read_positions(connection: AsyncConnection, conversation_id: str) -> Positions:
    """All at once: the branches of a conversation share most of their items."""
    table = conversation_items.c
    question = (
        select(
            table.branch,
            func.array_agg(aggregate_order_by(table.position, table.position)).label("positions"),
        )
        .where(table.conversation_id == conversation_id, table.deleted_at.is_(None))
        .group_by(table.branch)
    )
    return {found.branch: found.positions for found in await connection.execute(question)}


async def _read_shared(
    connection: AsyncConnection, conversation_id: str, branches: Sequence[Row]
) -> dict[Any, str]:
    """The ids of the last items that branches share with their parents, by their places."""
    table = conversation_items.c
    places = [place for branch in branches if (place := _last_shared(branch)) is not None]
    question = select(table.branch, table.position, table.id).where(
        table.conversation_id == conversation_id,
        table.deleted_at.is_(None),
        tuple_(table.branch, table.position).in_(places),
    )
    return {
        (found.branch, found.position): found.id for found in await connection.execute(question)
    }


def _last_shared(branch: Row) -> tuple[str, int] | None:
    segments = branch["segments"]
    return (segments[-2][0], segments[-2][1]) if len(segments) > 1 else None


def _count(positions: Positions, name: str, upto: int | None) -> int:
    known = positions.get(name, [])
    return len(known) if upto is None else bisect_right(known, upto)
