"""Reading shares: their owners', and what everybody may see of one."""

from typing import Any

import msgspec
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.commands import encode
from schemas.errors import Gone, NotFound
from schemas.queries.shares import AskPublicShare, AskShares
from workers.persistence.changes import to_row
from workers.persistence.commands.shares import to_share
from workers.persistence.queries.conversations import is_owned
from workers.persistence.queries.pages import OwnedList, read_owned
from workers.persistence.tables import conversations, shares

_SERVED = [column for column in shares.c if column.name != "snapshot"]


async def list_shares(connection: AsyncConnection, ask: AskShares) -> bytes:
    """A page of the principal's shares, by their age. Raises NotFound, InvalidRequest."""
    table = shares.c
    question = (
        select(*_SERVED)
        .join(conversations, conversations.c.id == table.conversation_id)
        .where(
            table.principal == ask.principal,
            table.deleted_at.is_(None),
            conversations.c.deleted_at.is_(None),
        )
    )
    if ask.conversation is not None:
        await _require_conversation(connection, ask.conversation, ask.principal)
        question = question.where(table.conversation_id == ask.conversation)
    if not ask.include_revoked:
        question = question.where(table.revoked_at.is_(None))
    owned = OwnedList(shares, "share", ask.principal, ask.paging)
    return await read_owned(connection, question, owned, _encode)


async def get_public(connection: AsyncConnection, ask: AskPublicShare) -> bytes:
    """What everybody may see of a share. Raises NotFound, Gone."""
    table = shares.c
    question = select(
        table.slug, table.title, table.created_at, table.snapshot, table.revoked_at
    ).where(table.slug == ask.slug)
    found = (await connection.execute(question)).first()
    if found is None:
        raise NotFound("there is no such share")
    if found.revoked_at is not None or found.snapshot is None:
        raise Gone("this share was revoked")
    return encode(
        {
            "object": "public_share",
            "slug": found.slug,
            "title": found.title,
            "created_at": int(found.created_at.timestamp()),
            "snapshot": msgspec.Raw(found.snapshot),
        }
    )


async def _require_conversation(
    connection: AsyncConnection, conversation_id: str, principal: str | None
) -> None:
    question = select(conversations.c.id).where(is_owned(conversation_id, principal))
    if await connection.scalar(question) is None:
        raise NotFound(f"there is no conversation {conversation_id}")


def _encode(found: Row[Any]) -> bytes:
    return encode(to_share(to_row(found._mapping)))
