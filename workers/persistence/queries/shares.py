"""Reading shares: their owners', and what everybody may see of one."""

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api.lists import encode_page
from schemas.commands import encode
from schemas.errors import Gone, InvalidRequest, NotFound
from schemas.queries import AskPublicShare, AskShares
from workers.persistence.changes import to_row
from workers.persistence.commands.shares import to_share
from workers.persistence.queries.conversations import is_owned
from workers.persistence.queries.pages import read_page
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
    for param in ("after", "before"):
        cursor = getattr(ask.paging, param)
        if cursor is not None:
            await _require_cursor(connection, cursor, ask.principal, param)
    page = await read_page(
        connection,
        question,
        table.id,
        ask.paging,
        after=ask.paging.after,
        before=ask.paging.before,
    )
    objects = [encode(to_share(to_row(row._mapping))) for row in page.rows]
    return encode_page([row.id for row in page.rows], objects, has_more=page.has_more)


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


async def _require_cursor(
    connection: AsyncConnection, cursor: str, principal: str | None, param: str
) -> None:
    question = select(shares.c.id).where(shares.c.id == cursor, shares.c.principal == principal)
    if await connection.scalar(question) is None:
        raise InvalidRequest(f"'{param}': there is no share {cursor}", param=param)
