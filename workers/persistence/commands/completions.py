"""Commands about stored completions. They are made by runs: `turns.py`."""

from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import writes
from schemas.api.stored import CompletionDeleted
from schemas.commands import Command, encode
from schemas.errors import NotFound
from workers.persistence.changes import Effect, Row, find
from workers.persistence.queries.completions import to_completion
from workers.persistence.tables import stored_completions

NOUN = "completion"


async def update(
    connection: AsyncConnection, command: Command, body: writes.UpdateCompletion
) -> Effect:
    """Give a stored completion other metadata."""
    row = await _lock(connection, command.principal, body.id)
    row |= {"metadata": body.metadata, "version": row["version"] + 1}
    answer = to_completion(row["body"], row["metadata"])
    return Effect(NOUN, "updated", body.id, {"stored_completions": [row]}, answer)


async def delete(
    connection: AsyncConnection, command: Command, body: writes.DeleteCompletion
) -> Effect:
    """Delete a stored completion; its run stays counted."""
    row = await _lock(connection, command.principal, body.id)
    row |= {
        "version": row["version"] + 1,
        "metadata": {},
        "messages": None,
        "body": None,
        "deleted_at": command.at,
    }
    answer = encode(CompletionDeleted(id=body.id))
    return Effect(NOUN, "deleted", body.id, {"stored_completions": [row]}, answer)


async def _lock(connection: AsyncConnection, principal: str, completion_id: str) -> Row:
    """Read a completion of the principal, and keep others from changing it. Raises NotFound."""
    table = stored_completions
    row = await find(
        connection, table, table.c.id == completion_id, table.c.principal == principal, locked=True
    )
    if row is None:
        raise NotFound(f"there is no stored completion {completion_id}")
    return row
