"""Items of tools' calls, found by the id of the call."""

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import writes
from schemas.api.items import to_item
from schemas.commands import Command, encode
from schemas.errors import NotFound
from workers.persistence.changes import Effect, Row, to_row
from workers.persistence.commands.conversations import NOUN, lock, touch
from workers.persistence.queries.conversations import Segments, is_in, read_segments
from workers.persistence.tables import conversation_items


async def update(connection: AsyncConnection, command: Command, body: writes.UpdateCall) -> Effect:
    """Change the item of a tool's call: what has become of it."""
    row = await lock(connection, command.principal, body.conversation, body.version)
    segments = await read_segments(connection, row["id"], row["principal"], body.branch)
    item = await _find(connection, row, segments, body.call_id)
    told = msgspec.json.decode(item["content"])
    given = {name: msgspec.json.decode(value) for name, value in body.fields.items()}
    checked = to_item(msgspec.Raw(encode(told | given)), "")
    item |= {"version": item["version"] + 1, "content": encode({"id": item["id"]} | checked)}
    touch(row, command.at)
    rows = {"conversations": [row], "conversation_items": [item]}
    return Effect(NOUN, "item_updated", body.conversation, rows, item["content"])


async def _find(connection: AsyncConnection, row: Row, segments: Segments, call_id: str) -> Row:
    """The newest item of a call on a branch; its output only if there is nothing else of it."""
    table = conversation_items.c
    question = (
        select(*[column for column in table if column.computed is None])
        .where(
            table.conversation_id == row["id"],
            table.call_id == call_id,
            table.deleted_at.is_(None),
            is_in(segments),
        )
        .order_by(table.type.like(r"%\_output"), table.position.desc())
        .limit(1)
    )
    found = (await connection.execute(question)).first()
    if found is None:
        raise NotFound(f"there is no call {call_id} in this conversation")
    return to_row(found._mapping)
