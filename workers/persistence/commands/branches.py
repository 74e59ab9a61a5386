"""Branches of a conversation: forks share the items of their parent up to where they leave it.

No item is copied. A fork's segments are its parent's, cut at the last item that both have, and its
own; so what a conversation stores grows with what is said in it, not with its branches.
"""

from math import inf
from typing import Final

import msgspec
from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import ids, writes
from schemas.api.conversations import (
    MAIN,
    MAX_BRANCHES,
    MAX_DEPTH,
    BranchActivated,
    Edited,
)
from schemas.commands import Command, encode
from schemas.errors import Conflict, InvalidRequest, NotFound
from workers.persistence.changes import Effect, Row, find, to_row
from workers.persistence.commands.conversations import (
    NOUN,
    append,
    bury_item,
    lock,
    new_branch,
    require_branch,
    touch,
)
from workers.persistence.queries.branches import to_branch
from workers.persistence.queries.conversations import Segments, is_in
from workers.persistence.tables import conversation_branches, conversation_items

DELETED_AT_ONCE: Final = 2000  # items: a fact names each
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
        upto=await last_position(connection, row, parent, before=item["position"]),
        at=row["updated_at"] if at is None else at,
    )
    row["active_branch"] = forked["name"]
    return [forked]


async def create(
    connection: AsyncConnection, command: Command, body: writes.CreateBranch
) -> Effect:
    """Make a branch with what its parent has, up to an item; the active branch stays active."""
    row = await lock(connection, command.principal, body.conversation, body.version)
    parent = await _require_parent(connection, row, body.parent)
    if body.last_item is None:
        upto = await last_position(connection, row, parent)
    else:
        upto = (await require_item(connection, row, parent, body.last_item))["position"]
    branch = await make_fork(connection, row, parent, name=body.name, upto=upto, at=command.at)
    branch["description"] = body.description
    touch(row, command.at)
    rows = {"conversations": [row], "conversation_branches": [branch]}
    answer = await to_branch(connection, row, branch)
    return Effect(NOUN, "branch_created", row["id"], rows, encode(answer))


async def activate(
    connection: AsyncConnection, command: Command, body: writes.NamedBranch
) -> Effect:
    """Make a branch what the conversation shows, and what items are appended to."""
    row = await lock(connection, command.principal, body.conversation, body.version)
    await require_branch(connection, row, body.name)
    row["active_branch"] = body.name
    touch(row, command.at)
    answer = BranchActivated(
        active_branch=body.name, message=f"the active branch is {body.name} now"
    )
    return Effect(NOUN, "branch_activated", row["id"], {"conversations": [row]}, encode(answer))


async def delete(connection: AsyncConnection, command: Command, body: writes.NamedBranch) -> Effect:
    """Delete a branch, and the items that no other branch has.

    Of many items only the last ones are deleted, and the branch stays: it must be told again.
    """
    row = await lock(connection, command.principal, body.conversation, body.version)
    branch = await require_branch(connection, row, body.name)
    if body.name in (MAIN, row["active_branch"]):
        raise InvalidRequest(
            f"{body.name!r} can't be deleted: it is the "
            + ("main branch" if body.name == MAIN else "active branch"),
            param="name",
        )
    items = await _only_in(connection, row, branch)
    has_more = len(items) > DELETED_AT_ONCE
    touch(row, command.at)
    rows = {
        "conversations": [row],
        "conversation_branches": [] if has_more else [_bury(branch, command.at)],
        "conversation_items": [bury_item(item, command.at) for item in items[:DELETED_AT_ONCE]],
    }
    answer = encode(writes.DeletedBranch(has_more))
    return Effect(NOUN, "branch_removed", row["id"], rows, answer)


def _bury(branch: Row, at: float) -> Row:
    return branch | {"version": branch["version"] + 1, "description": None, "deleted_at": at}


async def edit(connection: AsyncConnection, command: Command, body: writes.EditItem) -> Effect:
    """Put another message in the place of a user's: on a fork from before it, which is active."""
    row = await lock(connection, command.principal, body.conversation, body.version)
    parent = await _require_parent(connection, row, body.branch)
    old = await require_item(connection, row, parent, body.item)
    if (old["type"], old["role"]) != ("message", "user"):
        raise InvalidRequest("only a user's message can be edited", param="item_id")
    forked = await fork(connection, row, parent["name"], body.item, at=command.at)
    name = forked[0]["name"]
    items = append(row, name, [msgspec.json.decode(body.message)], command.at)
    touch(row, command.at)
    rows = {
        "conversations": [row],
        "conversation_branches": forked,
        "conversation_items": items,
    }
    answer = Edited(branch=name, new_branch=name, user_item=msgspec.Raw(items[0]["content"]))
    return Effect(NOUN, "item_edited", row["id"], rows, encode(answer))


async def _require_parent(connection: AsyncConnection, row: Row, name: str | None) -> Row:
    return await require_branch(connection, row, name or row["active_branch"])


async def _only_in(connection: AsyncConnection, row: Row, branch: Row) -> list[Row]:
    """The items of a branch that no other one has, without their content, the last ones first.

    There are more than can be deleted at once if one more than those is returned.
    """
    table = conversation_branches.c
    others = await connection.execute(
        select(table.segments).where(
            table.conversation_id == row["id"],
            table.name != branch["name"],
            table.deleted_at.is_(None),
        )
    )
    ends: dict[str, float] = {}  # how much of each stretch is still in use
    for other in others:
        for name, upto in other.segments:
            ends[name] = max(ends.get(name, -1), inf if upto is None else upto)
    unused = [
        (name, ends.get(name, -1))
        for name, upto in to_segments(branch)
        if ends.get(name, -1) < (inf if upto is None else upto)
    ]
    items = conversation_items.c
    question = (
        select(
            *[
                column
                for column in items
                if column.name not in ("content", "told", "text", "search")
            ]
        )
        .where(
            items.conversation_id == row["id"],
            items.deleted_at.is_(None),
            or_(*[and_(items.branch == name, items.position > end) for name, end in unused]),
        )
        .order_by(items.position.desc())
        .limit(DELETED_AT_ONCE + 1)
    )
    return [to_row(item._mapping) for item in await connection.execute(question)]


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


async def last_position(
    connection: AsyncConnection, row: Row, branch: Row, *, before: int | None = None
) -> int:
    """The position of the last item of a branch (before a position); -1: it has none."""
    table = conversation_items.c
    question = select(func.max(table.position)).where(
        table.conversation_id == row["id"], is_in(to_segments(branch))
    )
    if before is not None:
        question = question.where(table.position < before)
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
