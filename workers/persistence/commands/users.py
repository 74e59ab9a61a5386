"""Commands about principals themselves."""

from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import writes
from schemas.commands import Command, encode
from workers.persistence.changes import Effect, find
from workers.persistence.tables import deleted_users


async def delete(connection: AsyncConnection, command: Command, _body: writes.DeleteUser) -> Effect:
    """Delete what a principal has stored until now; what was used stays counted."""
    principal = command.principal
    known = await find(connection, deleted_users, deleted_users.c.principal == principal)
    row = {
        "principal": principal,
        "version": known["version"] + 1 if known is not None else 1,
        "deleted_at": command.at,
    }
    answer = {"id": principal, "object": "user.deleted", "deleted": True}
    return Effect("user", "deleted", principal, {"deleted_users": [row]}, encode(answer))
