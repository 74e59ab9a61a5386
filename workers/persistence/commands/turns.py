"""Commands that prepare a run on a conversation."""

from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import ids, writes
from schemas.api.turns import Forked
from schemas.commands import Command, encode
from schemas.errors import InvalidRequest
from workers.persistence.changes import Effect, Row
from workers.persistence.commands.branches import make_fork, require_item, to_segments
from workers.persistence.commands.conversations import NOUN, lock, require_branch, touch
from workers.persistence.queries.conversations import is_in
from workers.persistence.tables import conversation_items

_SAID_BY: Final = ("user", "system", "developer", "tool")
_OUTPUTS: Final = ("function_call_output", "custom_tool_call_output")
_LONGEST_ANSWER: Final = 200  # items that one answer is looked through


async def regenerate(
    connection: AsyncConnection, command: Command, body: writes.Regenerate
) -> Effect:
    """Fork the active branch after what was said before an answer, and make the fork active.

    The item is any of the answer's, or what it answers. Raises NotFound, InvalidRequest.
    """
    row = await lock(connection, command.principal, body.conversation)
    parent = await require_branch(connection, row, row["active_branch"])
    item = await require_item(connection, row, parent, body.item)
    upto = await _last_said(connection, row, parent, item)
    name = ids.new_id("fork-")
    branch = await make_fork(connection, row, parent, name=name, upto=upto, at=command.at)
    row["active_branch"] = name
    touch(row, command.at)
    rows = {"conversations": [row], "conversation_branches": [branch]}
    answer = encode(Forked(body.conversation, name, parent["name"]))
    return Effect(NOUN, "regenerated", body.conversation, rows, answer)


async def _last_said(connection: AsyncConnection, row: Row, branch: Row, item: Row) -> int:
    """The position of what an answer answers. Raises InvalidRequest if that is nothing."""
    table = conversation_items.c
    question = (
        select(table.position, table.type, table.role)
        .where(
            table.conversation_id == row["id"],
            is_in(to_segments(branch)),
            table.position <= item["position"],
            table.deleted_at.is_(None),
        )
        .order_by(table.position.desc())
        .limit(_LONGEST_ANSWER)
    )
    for found in await connection.execute(question):
        if found.role in _SAID_BY or found.type in _OUTPUTS:
            position: int = found.position
            return position
    raise InvalidRequest("nothing was said before this item: there is no answer to it", param="id")
