"""Reading conversations for models, and for those who want only their texts."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from sqlalchemy import Row, and_, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api.history import has_images, to_messages, unanswered
from schemas.api.hosted import files_of
from schemas.api.items import Item, text_of
from schemas.api.lists import encode_page
from schemas.api.turns import ConversationMessage
from schemas.commands import encode
from schemas.errors import InvalidRequest, NotFound
from schemas.queries.conversations import AskContext, AskItems, Context
from workers.persistence.queries.conversations import (
    is_in,
    is_in_stretches,
    read_branch,
    read_segments,
    to_values,
)
from workers.persistence.queries.pages import read_page
from workers.persistence.statements import Statement
from workers.persistence.tables import conversation_items
from workers.persistence.told import with_told

MAX_CONTEXT: Final = 4 << 20  # bytes of a history: with a request it is one object, one message
MAX_CONTEXT_ITEMS: Final = 4000
_REMEMBERED: Final = 64  # statements; branches of many segments are rare

_decode_item = msgspec.json.Decoder(dict[str, Any]).decode


async def get_context(connection: AsyncConnection, ask: AskContext) -> Context:
    """What a model needs to go on with a branch. Raises NotFound naming the request's field."""
    try:
        branch = await read_branch(connection, ask.conversation, ask.principal, ask.branch)
    except NotFound as error:
        raise NotFound(error.message, param=error.param or "conversation") from None
    values = to_values(ask.conversation, branch.segments, ask.upto)
    newest = await _newest(len(branch.segments)).all(connection, values)
    first, trimmed = choose(newest)
    items: list[Item] = [
        _decode_item(with_told(row.content, row.told)) | {"id": row.id}
        for row in reversed(newest)
        if row.position >= first
    ]
    return Context(
        branch=branch.name,
        head=newest[0].position if newest else -1,
        messages=msgspec.Raw(encode(to_messages(items))),
        items=len(items),
        instruction=branch.instruction,
        project=branch.project_id,
        images=has_images(items),
        trimmed=trimmed,
        asked=[msgspec.Raw(encode(item)) for item in unanswered(items)],
        files=files_of(items),
    )


@lru_cache(_REMEMBERED)
def _newest(count: int) -> Statement:
    """The newest items of a branch of so many segments; without their content beyond the limit."""
    table = conversation_items.c
    size = func.octet_length(table.content) + func.coalesce(func.octet_length(table.told), 0)
    so_far = func.sum(size).over(order_by=table.position.desc(), rows=(None, 0))
    return Statement(
        select(
            table.position,
            table.id,
            table.role,
            size.label("size"),
            case((so_far <= MAX_CONTEXT, table.content)).label("content"),
            case((so_far <= MAX_CONTEXT, table.told)).label("told"),
        )
        .where(is_in_stretches(count), table.deleted_at.is_(None))
        .order_by(table.position.desc())
        .limit(MAX_CONTEXT_ITEMS + 1)
    )


def choose(outline: Sequence[Any]) -> tuple[int, bool]:
    """From which position on the history fits, and whether something older is left out.

    It begins with what a user said, unless not even the last turn fits.
    """
    room, fits, first = MAX_CONTEXT, 0, 0
    for row in outline[:MAX_CONTEXT_ITEMS]:
        room -= row.size or 0
        if room < 0:
            break
        fits, first = fits + 1, row.position
    if fits == len(outline):
        return first, False
    begins = [row.position for row in outline[:fits] if row.role == "user"]
    return (begins[-1] if begins else first if fits else outline[0].position + 1), True


async def list_messages(connection: AsyncConnection, ask: AskItems) -> bytes:
    """A page of a branch's messages, by their place in it. Raises NotFound."""
    segments = await read_segments(connection, ask.conversation, ask.principal, ask.branch)
    table = conversation_items.c
    of_branch = and_(table.conversation_id == ask.conversation, is_in(segments))
    places: dict[str, int] = {}
    for param in ("after", "before"):
        cursor = getattr(ask.paging, param)
        if cursor is not None:
            known = select(table.position).where(table.id == cursor, of_branch)
            position = await connection.scalar(known)
            if position is None:
                raise InvalidRequest(
                    f"'{param}': there is no message {cursor} on this branch", param=param
                )
            places[param] = position
    question = select(table.id, table.content, table.created_at, table.position).where(
        of_branch, table.type == "message", table.deleted_at.is_(None)
    )
    page = await read_page(connection, question, table.position, ask.paging, **places)
    return encode_page(
        [row.id for row in page.rows],
        [_to_message(row) for row in page.rows],
        has_more=page.has_more,
    )


def _to_message(row: Row[Any]) -> bytes:
    item = _decode_item(row.content)
    return encode(
        ConversationMessage(
            id=row.id,
            role=item.get("role"),
            content=text_of(item),
            status=item.get("status") or "completed",
            created_at=int(row.created_at.timestamp()),
        )
    )
