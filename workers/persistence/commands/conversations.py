"""Commands about conversations. Each decides in the transaction that writes its effect.

Whoever changes a conversation locks its row first: positions and versions are given in one order.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import ids, writes
from schemas.api.conversations import MAIN, Conversation
from schemas.api.items import Item, id_prefix
from schemas.api.lists import encode_page
from schemas.commands import Command, encode
from schemas.errors import Conflict, InvalidRequest, NotFound
from workers.persistence.changes import Effect, Row, find, find_by, to_find, to_row
from workers.persistence.conditions import lives
from workers.persistence.statements import Statement
from workers.persistence.tables import (
    conversation_branches,
    conversation_items,
    conversations,
    projects,
    shares,
)
from workers.persistence.told import to_stored

# The verbs of facts that end in `deleted` are told for ever: only tombstones may be in them.
NOUN = "conversation"

_LOCK = Statement(
    to_find(
        conversations,
        conversations.c.id == bindparam("conversation"),
        conversations.c.principal == bindparam("owner"),
        locked=True,
    )
)
_BRANCH = Statement(
    to_find(
        conversation_branches,
        conversation_branches.c.conversation_id == bindparam("conversation"),
        conversation_branches.c.name == bindparam("branch"),
    )
)


async def create(
    connection: AsyncConnection, command: Command, body: writes.CreateConversation
) -> Effect:
    """Make a conversation with its main branch, and its first items."""
    conversation_id = ids.new_id("conv_")
    instruction = await read_instruction(connection, command.principal, body.project_id)
    row: Row = {
        "id": conversation_id,
        "principal": command.principal,
        "version": 1,
        "title": body.title,
        "title_locked": body.title is not None,
        "metadata": body.metadata,
        "referrer": body.referrer,
        "project_id": body.project_id,
        "instruction": instruction,
        "active_branch": MAIN,
        "next_position": 0,
        "created_at": command.at,
        "updated_at": command.at,
        "deleted_at": None,
    }
    branch = new_branch(row, MAIN, command.at)
    items = append(row, MAIN, [msgspec.json.decode(item) for item in body.items], command.at)
    rows = {"conversations": [row], "conversation_branches": [branch], "conversation_items": items}
    return Effect(NOUN, "created", conversation_id, rows, encode(to_conversation(row)))


async def update(
    connection: AsyncConnection, command: Command, body: writes.UpdateConversation
) -> Effect:
    """Change what is named. A title that is given by hand stays until it is taken back."""
    row = await lock(connection, command.principal, body.id, body.version)
    if body.title is not msgspec.UNSET:
        row |= {"title": body.title, "title_locked": body.title is not None}
    if body.metadata is not msgspec.UNSET:
        row["metadata"] = body.metadata
    if body.referrer is not msgspec.UNSET:
        row["referrer"] = body.referrer
    if body.project_id is None or body.project_id not in (msgspec.UNSET, row["project_id"]):
        row["project_id"] = body.project_id
        row["instruction"] = await read_instruction(connection, command.principal, body.project_id)
    touch(row, command.at)
    answer = encode(to_conversation(row))
    return Effect(NOUN, "updated", body.id, {"conversations": [row]}, answer)


async def retitle(connection: AsyncConnection, command: Command, body: writes.Retitle) -> Effect:
    """Give a conversation the title that a model made. Raises Conflict if it has another by now."""
    row = await lock(connection, command.principal, body.id)
    if row["title_locked"] or row["title"] != body.instead_of:
        raise Conflict("the conversation has another title by now")
    row["title"] = body.title
    touch(row, command.at)
    return Effect(NOUN, "updated", body.id, {"conversations": [row]}, b"null")


async def delete(
    connection: AsyncConnection, command: Command, body: writes.DeleteConversation
) -> Effect:
    """Delete a conversation with all that hangs on it; its usage stays counted."""
    row = await lock(connection, command.principal, body.id, body.version)
    to_tombstone(row, command.at)
    rows = {
        "conversations": [row],
        "shares": await bury_shares(connection, [body.id], command.at),
    }
    answer = {"id": body.id, "object": "conversation.deleted", "deleted": True}
    return Effect(NOUN, "deleted", body.id, rows, encode(answer))


async def delete_many(
    connection: AsyncConnection, command: Command, body: writes.DeleteConversations
) -> Effect:
    """Delete the principal's conversations that were made up to an id, so many at most.

    Nothing is said of each but that it is gone: the fact is the principal's.
    """
    table = conversations.c
    question = (
        select(*[column for column in table if column.computed is None])
        .where(
            table.principal == command.principal,
            table.id <= body.upto,
            table.deleted_at.is_(None),
        )
        .order_by(table.id)
        .limit(body.limit)
        .with_for_update()
    )
    rows = [to_row(found._mapping) for found in await connection.execute(question)]
    for row in rows:
        to_tombstone(row, command.at)
    shares = await bury_shares(connection, [row["id"] for row in rows], command.at)
    answer = writes.DeletedConversations(len(rows), len(rows) == body.limit)
    told = {"conversations": rows, "shares": shares}
    return Effect(NOUN, "many_deleted", command.principal, told, encode(answer))


async def add_items(connection: AsyncConnection, command: Command, body: writes.AddItems) -> Effect:
    """Append items to a branch."""
    row = await lock(connection, command.principal, body.conversation, body.version)
    branch = body.branch or row["active_branch"]
    await require_branch(connection, row, branch)
    given = [msgspec.json.decode(item) for item in body.items]
    items = append(row, branch, given, command.at)
    touch(row, command.at)
    answer = encode_page(
        [item["id"] for item in items], [item["content"] for item in items], has_more=False
    )
    rows = {"conversations": [row], "conversation_items": items}
    return Effect(NOUN, "items_added", body.conversation, rows, answer)


async def delete_item(
    connection: AsyncConnection, command: Command, body: writes.DeleteItem
) -> Effect:
    """Delete one item, from every branch that has it."""
    row = await lock(connection, command.principal, body.conversation, body.version)
    item = await find(
        connection,
        conversation_items,
        conversation_items.c.id == body.item,
        conversation_items.c.conversation_id == body.conversation,
    )
    if item is None:
        raise NotFound(f"there is no item {body.item} in this conversation")
    touch(row, command.at)
    rows = {"conversations": [row], "conversation_items": [bury_item(item, command.at)]}
    answer = encode(to_conversation(row))
    return Effect(NOUN, "item_removed", body.conversation, rows, answer)


async def lock(
    connection: AsyncConnection,
    principal: str,
    conversation_id: str,
    version: int | None = None,
) -> Row:
    """Read a conversation of the principal and keep others from changing it.

    `version` is what it must be, if it is given. Raises NotFound, Conflict.
    """
    row = await find_by(connection, _LOCK, {"conversation": conversation_id, "owner": principal})
    if row is None:
        raise NotFound(f"there is no conversation {conversation_id}")
    if version is not None and version != row["version"]:
        raise Conflict(
            f"the conversation has been changed: its version is {row['version']} now",
            param="If-Match",
            code="version_conflict",
        )
    if row["project_id"] is not None and not await connection.scalar(
        select(lives(row["project_id"]))
    ):
        row["project_id"] = None  # it was deleted; the instruction stays until it is taken away
    return row


async def require_branch(connection: AsyncConnection, row: Row, name: str) -> Row:
    """Read a branch of a conversation. Raises NotFound."""
    branch = await find_by(connection, _BRANCH, {"conversation": row["id"], "branch": name})
    if branch is None:
        raise NotFound(f"the conversation has no branch {name!r}", param="branch")
    return branch


async def read_instruction(
    connection: AsyncConnection, principal: str, project_id: str | None
) -> str | None:
    """The instruction of a principal's project. Raises InvalidRequest if there is none such."""
    if project_id is None:
        return None
    project = await find(
        connection, projects, projects.c.id == project_id, projects.c.principal == principal
    )
    if project is None:
        raise InvalidRequest(f"there is no project {project_id}", param="project_id")
    instruction: str | None = project["instruction"]
    return instruction


def new_branch(row: Row, name: str, at: float) -> Row:
    """A branch of a conversation that shares nothing with others."""
    return {
        "conversation_id": row["id"],
        "name": name,
        "principal": row["principal"],
        "version": 1,
        "description": None,
        "parent": None,
        "forked_at": None,
        "segments": [[name, None]],
        "created_at": at,
        "deleted_at": None,
    }


def append(
    row: Row, branch: str, items: Sequence[Item], at: float, *, run_id: str | None = None
) -> list[Row]:
    """Make rows of new items at the end of a branch; the conversation's next position moves on."""
    first = row["next_position"]
    row["next_position"] = first + len(items)
    place = {"conversation_id": row["id"], "branch": branch, "principal": row["principal"]}
    return [
        place | {"position": position, "created_at": at, "run_id": run_id} | _to_item_row(item)
        for position, item in enumerate(items, first)
    ]


def touch(row: Row, at: float) -> None:
    """Note that a conversation was changed."""
    row["version"] += 1
    row["updated_at"] = max(at, row["updated_at"])


def to_conversation(row: Row) -> Conversation:
    """A conversation as it is served."""
    return Conversation(
        id=row["id"],
        created_at=int(row["created_at"]),
        updated_at=int(row["updated_at"]),
        title=row["title"],
        title_locked=row["title_locked"],
        metadata=row["metadata"],
        project_id=row["project_id"],
        referrer=row["referrer"],
        active_branch=row["active_branch"],
        version=row["version"],
    )


def to_tombstone(row: Row, at: float) -> None:
    """Leave of a conversation its ids and times. What hangs on it goes with it: `changes.apply`."""
    row |= {"title": None, "metadata": {}, "referrer": None, "instruction": None, "deleted_at": at}
    touch(row, at)


async def bury_shares(
    connection: AsyncConnection, conversation_ids: Sequence[str], at: float
) -> list[Row]:
    """Tombstones of the shares of conversations that everybody can still read.

    Those that are revoked show nothing any more.
    """
    kept = [column for column in shares.c if column.name not in ("title", "snapshot")]
    question = select(*kept).where(
        shares.c.conversation_id.in_(conversation_ids), shares.c.revoked_at.is_(None)
    )
    found = [to_row(share._mapping) for share in await connection.execute(question)]
    return [bury_share(share, at) | {"deleted_at": at} for share in found]


def bury_share(share: Row, at: float) -> Row:
    """A share that shows nothing any more; its slug is known, so that readers learn it is gone."""
    return share | {
        "version": share["version"] + 1,
        "title": None,
        "snapshot": None,
        "revoked_at": share["revoked_at"] or at,
    }


def bury_item(item: Row, at: float) -> Row:
    """What stays of a deleted item: its id and its place."""
    return item | {
        "version": item["version"] + 1,
        "content": None,
        "told": None,
        "text": None,
        "call_id": None,
        "deleted_at": at,
    }


def _to_item_row(item: Item) -> Row:
    item_id = item.get("id") or ids.new_id(id_prefix(item["type"]))
    content, told = to_stored({"id": item_id} | item)
    return {
        "id": item_id,
        "version": 1,
        "type": item["type"],
        "role": item.get("role"),
        "call_id": item.get("call_id"),
        "content": content,
        "told": told,
        "deleted_at": None,
    }
