"""Locks on what has no row yet: two commands that would both make it go one after the other."""

from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))").bindparams(
    bindparam("name")
)


async def take_turn(connection: AsyncConnection, noun: str, principal: str) -> None:
    """Let a principal's commands about such things pass one by one, until the transaction ends."""
    await connection.execute(_LOCK, {"name": f"{noun}:{principal}"})
