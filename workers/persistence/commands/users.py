"""Commands about principals themselves."""

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from bus import Bucket, Bus
from schemas import subjects, writes
from schemas.commands import Command, encode
from schemas.keys import KeysRevoked, revocation_name
from workers.persistence.changes import Effect, find
from workers.persistence.tables import deleted_users

_decode = msgspec.json.Decoder(writes.DeleteUser).decode


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


async def revoke_keys(connection: AsyncConnection, bus: Bus, command: Command) -> None:
    """Revoke the API keys that a principal had when they were deleted last. Raises BusError.

    Who comes back gets a new one.
    """
    if not _decode(command.body).keys:
        return
    principal = command.principal
    known = await find(connection, deleted_users, deleted_users.c.principal == principal)
    if known is not None:
        told = encode(KeysRevoked(principal, known["deleted_at"]))
        await Bucket(bus, subjects.KV_KEYS).put(revocation_name(principal), told)
