"""Reading conversations. Every query is scoped by the principal."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Row,
    Text,
    and_,
    bindparam,
    cast,
    func,
    literal,
    or_,
    select,
    union,
)
from sqlalchemy.dialects.postgresql import REGCONFIG
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api.lists import encode_page
from schemas.commands import encode
from schemas.errors import InvalidRequest, JanError, NotFound
from schemas.queries.conversations import AskConversation, AskConversations, AskItem, AskItems
from workers.persistence.changes import to_row
from workers.persistence.commands.conversations import to_conversation
from workers.persistence.conditions import lives, living
from workers.persistence.queries.asked import ASKED, find_asked, is_asked
from workers.persistence.queries.lexemes import of_owner
from workers.persistence.queries.pages import OwnedList, read_owned, to_page, to_stretch
from workers.persistence.statements import Statement
from workers.persistence.tables import (
    conversation_branches,
    conversation_items,
    conversations,
)

Segments = list[tuple[str, int | None]]


class Branch(NamedTuple):
    """A branch with what a model is told of its conversation."""

    name: str
    segments: Segments
    instruction: str | None
    project_id: str | None


_ENDLESS: Final = (1 << 63) - 1
_REMEMBERED: Final = 64  # statements; branches of many segments are rare

_SERVED = [
    *[
        column
        for column in conversations.c
        if column.name not in ("search", "instruction", "project_id")
    ],
    living(conversations.c.project_id).label("project_id"),
]

_OWNED = and_(
    conversations.c.id == bindparam("id"),
    conversations.c.deleted_at.is_(None),
    or_(
        bindparam("principal", type_=Text).is_(None),
        conversations.c.principal == bindparam("principal"),
    ),
)
_CONVERSATIONS = Statement(select(ASKED.c.number, *_SERVED).where(is_asked(conversations)))
_BRANCH = Statement(
    select(
        conversations.c.active_branch,
        conversations.c.instruction,
        conversations.c.project_id,
        conversation_branches.c.segments,
    )
    .outerjoin(
        conversation_branches,
        and_(
            conversation_branches.c.conversation_id == conversations.c.id,
            conversation_branches.c.name
            == func.coalesce(bindparam("branch", type_=Text), conversations.c.active_branch),
            conversation_branches.c.deleted_at.is_(None),
        ),
    )
    .where(_OWNED)
)


@lru_cache(_REMEMBERED)
def _items(count: int, *, upwards: bool) -> Statement:
    """A page of the items of a branch of so many segments."""
    table = conversation_items.c
    return Statement(
        select(table.id, table.content)
        .where(
            is_in_stretches(count),
            table.deleted_at.is_(None),
            table.position > bindparam("above"),
            table.position < bindparam("below"),
        )
        .order_by(table.position.asc() if upwards else table.position.desc())
        .limit(bindparam("most"))
    )


async def get_conversations(
    connection: AsyncConnection, asks: Sequence[AskConversation]
) -> list[bytes | JanError]:
    """Conversations, each its asker's, or NotFound."""
    rows = await find_asked(connection, _CONVERSATIONS, asks)
    return [
        encode(to_conversation(to_row(row._asdict())))
        if row is not None
        else NotFound(f"there is no conversation {ask.id}")
        for ask, row in zip(asks, rows, strict=True)
    ]


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
    after, before = [
        await _position(connection, of_branch, cursor, param) if cursor is not None else None
        for param, cursor in (("after", ask.paging.after), ("before", ask.paging.before))
    ]
    stretch = to_stretch(ask.paging, after, before)
    values = to_values(ask.conversation, segments) | {
        "above": -1 if stretch.above is None else stretch.above,
        "below": _ENDLESS if stretch.below is None else stretch.below,
        "most": ask.paging.limit + 1,
    }
    rows = await _items(len(segments), upwards=stretch.upwards).all(connection, values)
    page = to_page(rows, ask.paging, stretch)
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
    return (await read_branch(connection, conversation_id, principal, branch)).segments


async def read_branch(
    connection: AsyncConnection, conversation_id: str, principal: str | None, branch: str | None
) -> Branch:
    """A branch, the active one by default. Raises NotFound."""
    values = {"id": conversation_id, "principal": principal, "branch": branch}
    found = await _BRANCH.first(connection, values)
    if found is None:
        raise NotFound(f"there is no conversation {conversation_id}")
    if found.segments is None:
        raise NotFound(f"the conversation has no branch {branch!r}", param="branch")
    segments = [(name, upto) for name, upto in found.segments]
    return Branch(branch or found.active_branch, segments, found.instruction, found.project_id)


def to_values(conversation_id: str, segments: Segments, last: int | None = None) -> dict[str, Any]:
    """The values that `is_in_stretches` of so many segments takes; `last`: up to this position."""
    values: dict[str, Any] = {"conversation": conversation_id}
    most = _ENDLESS if last is None else last
    for number, (name, upto) in enumerate(segments):
        values |= {
            f"branch_{number}": name,
            f"upto_{number}": most if upto is None else min(most, upto),
        }
    return values


def is_in_stretches(count: int) -> ColumnElement[bool]:
    """The condition that an item belongs to one of so many stretches of a conversation."""
    table = conversation_items.c
    stretches = [
        and_(
            table.branch == bindparam(f"branch_{number}"),
            table.position <= bindparam(f"upto_{number}"),
        )
        for number in range(count)
    ]
    return and_(table.conversation_id == bindparam("conversation"), or_(*stretches))


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
