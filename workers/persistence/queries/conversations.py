"""Reading conversations. Every query is scoped by the principal."""

from typing import Any

from sqlalchemy import ColumnElement, Row, and_, cast, func, literal, or_, select, union
from sqlalchemy.dialects.postgresql import REGCONFIG
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api.lists import encode_page
from schemas.commands import encode
from schemas.errors import InvalidRequest, NotFound
from schemas.queries.conversations import AskConversation, AskConversations, AskItem, AskItems
from workers.persistence.changes import to_row
from workers.persistence.commands.conversations import to_conversation
from workers.persistence.conditions import lives, living
from workers.persistence.queries.lexemes import of_owner
from workers.persistence.queries.pages import OwnedList, read_owned, read_page
from workers.persistence.tables import (
    conversation_branches,
    conversation_items,
    conversations,
)

Segments = list[tuple[str, int | None]]

_SERVED = [
    *[
        column
        for column in conversations.c
        if column.name not in ("search", "instruction", "project_id")
    ],
    living(conversations.c.project_id).label("project_id"),
]


async def get_conversation(connection: AsyncConnection, ask: AskConversation) -> bytes:
    """One conversation. Raises NotFound."""
    question = select(*_SERVED).where(is_owned(ask.id, ask.principal))
    found = (await connection.execute(question)).first()
    if found is None:
        raise NotFound(f"there is no conversation {ask.id}")
    return _encode(found)


async def list_conversations(connection: AsyncConnection, ask: AskConversations) -> bytes:
    """A page of the principal's conversations, by their age."""
    table = conversations.c
    question = select(*_SERVED).where(table.principal == ask.principal, table.deleted_at.is_(None))
    if ask.project_id is not None:
        question = question.where(table.project_id == ask.project_id, lives(ask.project_id))
    if ask.search is not None:
        question = question.where(table.id.in_(_found(ask.search, ask.principal or "")))
    owned = OwnedList(conversations, "conversation", ask.principal, ask.paging)
    return await read_owned(connection, question, owned, _encode)


async def list_items(connection: AsyncConnection, ask: AskItems) -> bytes:
    """A page of a branch's items, by their place in it. Raises NotFound."""
    segments = await read_segments(connection, ask.conversation, ask.principal, ask.branch)
    table = conversation_items.c
    of_branch = and_(table.conversation_id == ask.conversation, is_in(segments))
    places = {
        param: await _position(connection, of_branch, cursor, param)
        for param in ("after", "before")
        if (cursor := getattr(ask.paging, param)) is not None
    }
    question = select(table.id, table.content).where(of_branch, table.deleted_at.is_(None))
    page = await read_page(connection, question, table.position, ask.paging, **places)
    return encode_page(
        [row.id for row in page.rows], [row.content for row in page.rows], has_more=page.has_more
    )


async def get_item(connection: AsyncConnection, ask: AskItem) -> bytes:
    """One item, of whichever branch. Raises NotFound."""
    table = conversation_items.c
    question = (
        select(table.content)
        .join(conversations, conversations.c.id == table.conversation_id)
        .where(
            table.id == ask.item,
            table.deleted_at.is_(None),
            is_owned(ask.conversation, ask.principal),
        )
    )
    content: bytes | None = await connection.scalar(question)
    if content is None:
        raise NotFound(f"there is no item {ask.item} in this conversation")
    return content


async def read_segments(
    connection: AsyncConnection, conversation_id: str, principal: str | None, branch: str | None
) -> Segments:
    """Which stretches of which branches make up a branch. Raises NotFound."""
    question = (
        select(conversation_branches.c.segments)
        .select_from(conversations)
        .outerjoin(
            conversation_branches,
            and_(
                conversation_branches.c.conversation_id == conversations.c.id,
                conversation_branches.c.name == (branch or conversations.c.active_branch),
                conversation_branches.c.deleted_at.is_(None),
            ),
        )
        .where(is_owned(conversation_id, principal))
    )
    found = (await connection.execute(question)).first()
    if found is None:
        raise NotFound(f"there is no conversation {conversation_id}")
    if found.segments is None:
        raise NotFound(f"the conversation has no branch {branch!r}", param="branch")
    return [(name, upto) for name, upto in found.segments]


def is_in(segments: Segments) -> ColumnElement[bool]:
    """The condition that an item belongs to one of these stretches."""
    table = conversation_items.c
    return or_(
        *[
            table.branch == name
            if upto is None
            else and_(table.branch == name, table.position <= upto)
            for name, upto in segments
        ]
    )


def is_owned(conversation_id: str, principal: str | None) -> ColumnElement[bool]:
    """The condition that it is this conversation, and the principal's."""
    table = conversations.c
    wanted = and_(table.id == conversation_id, table.deleted_at.is_(None))
    return wanted if principal is None else and_(wanted, table.principal == principal)


async def _position(
    connection: AsyncConnection, of_branch: ColumnElement[bool], cursor: str, param: str
) -> int:
    question = select(conversation_items.c.position).where(
        conversation_items.c.id == cursor, of_branch
    )
    position: int | None = await connection.scalar(question)
    if position is None:
        raise InvalidRequest(f"'{param}': there is no item {cursor} on this branch", param=param)
    return position


def _found(words: str, principal: str) -> Any:
    """The ids of the principal's conversations whose title or items have all these words."""
    wanted = func.websearch_to_tsquery(cast(literal("simple"), REGCONFIG), words).op("&&")(
        of_owner(principal)
    )
    return union(
        select(conversations.c.id).where(
            conversations.c.search.op("@@")(wanted), conversations.c.deleted_at.is_(None)
        ),
        select(conversation_items.c.conversation_id).where(
            conversation_items.c.search.op("@@")(wanted),
            conversation_items.c.deleted_at.is_(None),
        ),
    )


def _encode(found: Row[Any]) -> bytes:
    return encode(to_conversation(to_row(found._mapping)))
