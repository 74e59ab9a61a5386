"""Branches of a conversation: forks share the items of their parent up to where they leave it.

No item is copied. A fork's segments are its parent's, cut at the last item that both have, and its
own; so what a conversation stores grows with what is said in it, not with its branches.
"""

from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import ids
from schemas.api.conversations import MAX_BRANCHES, MAX_DEPTH
from schemas.errors import Conflict, InvalidRequest, NotFound
from workers.persistence.changes import Row, find
from workers.persistence.commands.conversations import new_branch, require_branch
from workers.persistence.queries.conversations import Segments, is_in
from workers.persistence.tables import conversation_branches, conversation_items

_GIVEN_NAME: Final = "fork-"  # what the names begin with that the server gives


async def fork(
    connection: AsyncConnection,
    row: Row,
    branch: str,
    before_item: str,
    *,
    at: float | None = None,
) -> list[Row]:
    """Fork a branch of a locked conversation before an item, and make the fork the active branch.

    Returns the rows of `conversation_branches` to write; the new branch is the first of them. The
    conversation's row is changed in place, but not touched. Raises NotFound, InvalidRequest.
    """
    parent = await require_branch(connection, row, branch)
    item = await require_item(connection, row, parent, before_item)
    forked = await make_fork(
        connection,
        row,
        parent,
        name=ids.new_id(_GIVEN_NAME),
        upto=item["position"] - 1,
        at=row["updated_at"] if at is None else at,
    )
    row["active_branch"] = forked["name"]
    return [forked]


async def make_fork(
    connection: AsyncConnection, row: Row, parent: Row, *, name: str, upto: int, at: float
) -> Row:
    """A new branch with its parent's items up to a position. Raises InvalidRequest, Conflict."""
    segments = cut(to_segments(parent), upto)
    if len(segments) >= MAX_DEPTH:
        raise InvalidRequest(
            f"a branch has at most {MAX_DEPTH - 1} branches before it", param="parent_branch"
        )
    version = await _free_version(connection, row, name)
    return new_branch(row, name, at) | {
        "version": version,
        "parent": parent["name"],
        "forked_at": segments[-1][1] if segments else None,
        "segments": [*map(list, segments), [name, None]],
    }


async def require_item(connection: AsyncConnection, row: Row, branch: Row, item_id: str) -> Row:
    """Read an item of a branch. Raises NotFound."""
    item = await find(
        connection,
        conversation_items,
        conversation_items.c.id == item_id,
        conversation_items.c.conversation_id == row["id"],
        is_in(to_segments(branch)),
    )
    if item is None:
        raise NotFound(f"there is no item {item_id} on the branch {branch['name']!r}")
    return item


async def last_position(connection: AsyncConnection, row: Row, branch: Row) -> int:
    """The position of the last item of a branch; -1: it has none."""
    table = conversation_items.c
    question = select(func.max(table.position)).where(
        table.conversation_id == row["id"], is_in(to_segments(branch))
    )
    position: int | None = await connection.scalar(question)
    return -1 if position is None else position


def to_segments(branch: Row) -> Segments:
    """Read which stretches of which branches make up a branch, from its row."""
    return [(name, upto) for name, upto in branch["segments"]]


def cut(segments: Segments, upto: int) -> Segments:
    """Leave of a branch's segments what lies up to a position, which is the end of the last one."""
    kept: Segments = []
    if upto < 0:
        return kept
    for name, end in segments:
        if end is None or end >= upto:
            return [*kept, (name, upto)]
        kept.append((name, end))
    return kept


async def _free_version(connection: AsyncConnection, row: Row, name: str) -> int:
    """The version that a new branch of this name begins with.

    The name of a deleted branch is free again when no other branch has items of it any more.
    Raises InvalidRequest, Conflict.
    """
    table = conversation_branches.c
    question = select(table.name, table.version, table.deleted_at, table.segments).where(
        table.conversation_id == row["id"]
    )
    found = list(await connection.execute(question))
    living = [branch for branch in found if branch.deleted_at is None]
    if len(living) >= MAX_BRANCHES:
        raise InvalidRequest(f"a conversation has at most {MAX_BRANCHES} branches", param="name")
    for branch in living:
        if any(name == segment for segment, _ in branch.segments):
            raise Conflict(
                f"the name {name!r} is taken, or part of the branch {branch.name!r}", param="name"
            )
    return 1 + max((branch.version for branch in found if branch.name == name), default=0)
