"""Imports: a conversation as an export has it, with new ids, in pieces that a message can carry."""

from collections.abc import Sequence

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import ids, writes
from schemas.commands import Command, encode
from workers.persistence.changes import Effect, Row
from workers.persistence.commands.conversations import (
    NOUN,
    append,
    lock,
    new_branch,
    to_conversation,
)


async def begin(
    _connection: AsyncConnection, command: Command, body: writes.ImportConversation
) -> Effect:
    """Make the conversation with all its branches, and the first of its items.

    The places of all items are taken: what is appended meanwhile comes after them.
    """
    row: Row = {
        "id": ids.new_id("conv_"),
        "principal": command.principal,
        "version": 1,
        "title": body.title,
        "title_locked": body.title_locked,
        "metadata": body.metadata,
        "referrer": body.referrer,
        "project_id": None,
        "instruction": None,
        "active_branch": body.active_branch,
        "next_position": body.next_position,
        "created_at": command.at,
        "updated_at": command.at,
        "deleted_at": None,
    }
    rows = {
        "conversations": [row],
        "conversation_branches": [
            _to_branch(row, branch, command.at + number / 1000)  # they are listed by their age
            for number, branch in enumerate(body.branches)
        ],
        "conversation_items": _to_items(row, body.items, command),
    }
    return Effect(NOUN, "imported", row["id"], rows, encode(to_conversation(row)))


async def go_on(connection: AsyncConnection, command: Command, body: writes.ImportItems) -> Effect:
    """Bring more of an import's items."""
    row = await lock(connection, command.principal, body.conversation)
    items = _to_items(row, body.items, command)
    return Effect(NOUN, "items_imported", row["id"], {"conversation_items": items})


def _to_branch(row: Row, branch: writes.ImportedBranch, at: float) -> Row:
    shared = branch.segments[:-1]
    return new_branch(row, branch.name, at) | {
        "description": branch.description,
        "parent": branch.parent,
        "forked_at": shared[-1][1] if shared else None,
        "segments": [list(segment) for segment in branch.segments],
    }


def _to_items(row: Row, items: Sequence[writes.ImportedItem], command: Command) -> list[Row]:
    made = []
    for item in items:
        place = {"next_position": item.position}
        made += append(row | place, item.branch, [msgspec.json.decode(item.item)], command.at)
    return made
