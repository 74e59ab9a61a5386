"""Reading stored completions. Every query is scoped by the principal."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Row, and_, cast, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api.lists import encode_page
from schemas.commands import encode
from schemas.errors import InvalidRequest, JanError, NotFound
from schemas.queries.completions import AskCompletion, AskCompletions
from workers.persistence.queries.asked import ASKED, find_asked, is_asked
from workers.persistence.queries.pages import OwnedList, read_owned
from workers.persistence.statements import Statement
from workers.persistence.tables import stored_completions

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_messages = msgspec.json.Decoder(list[dict[str, Any]]).decode


_COMPLETIONS: Final = Statement(
    select(ASKED.c.number, stored_completions.c.body, stored_completions.c.metadata).where(
        is_asked(stored_completions)
    )
)


async def get_completions(
    connection: AsyncConnection, asks: Sequence[AskCompletion]
) -> list[bytes | JanError]:
    """Stored completions, each its asker's, or NotFound."""
    rows = await find_asked(connection, _COMPLETIONS, asks)
    return [
        to_completion(row.body, row.metadata)
        if row is not None
        else NotFound(f"there is no stored completion {ask.id}")
        for ask, row in zip(asks, rows, strict=True)
    ]


async def list_completions(connection: AsyncConnection, ask: AskCompletions) -> bytes:
    """A page of the principal's stored completions, by their age."""
    table = stored_completions.c
    question = select(table.id, table.body, table.metadata).where(
        table.principal == ask.principal, table.deleted_at.is_(None)
    )
    if ask.model is not None:
        question = question.where(table.model == ask.model)
    if ask.metadata:
        question = question.where(
            table.metadata.contains(cast(literal(ask.metadata, JSONB), JSONB))
        )
    owned = OwnedList(stored_completions, "completion", ask.principal, ask.paging)
    return await read_owned(connection, question, owned, _encode)


async def list_messages(connection: AsyncConnection, ask: AskCompletion) -> bytes:
    """A page of what a stored completion was asked. Raises NotFound."""
    question = select(stored_completions.c.messages).where(_is_owned(ask.id, ask.principal))
    found: bytes | None = await connection.scalar(question)
    if found is None:
        raise NotFound(f"there is no stored completion {ask.id}")
    messages = [
        to_message(f"{ask.id}-{number}", message)
        for number, message in enumerate(_decode_messages(found))
    ]
    if ask.paging.order == "desc":
        messages.reverse()
    names = [message["id"] for message in messages]
    first, end = 0, len(messages)
    for param in ("after", "before"):
        cursor = getattr(ask.paging, param)
        if cursor is not None and cursor not in names:
            raise InvalidRequest(f"'{param}': there is no message {cursor}", param=param)
        if cursor is not None and param == "after":
            first = names.index(cursor) + 1
        elif cursor is not None:
            end = names.index(cursor)
    last = min(end, first + ask.paging.limit)
    return encode_page(
        names[first:last], list(map(encode, messages[first:last])), has_more=last < end
    )


def to_completion(body: bytes, metadata: dict[str, str]) -> bytes:
    """A stored completion as it is served: the answer as it was given, and its metadata."""
    fields = _decode_fields(body)
    return encode(fields | {"metadata": msgspec.Raw(encode(metadata))})


def to_message(message_id: str, message: dict[str, Any]) -> dict[str, Any]:
    """A message of a request as it is served: parts beside the text that they have."""
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    if parts is not None:
        texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
        content = "\n".join(texts) if texts else None
    shape = {"role": message.get("role"), "content": content, "refusal": None}
    return {"id": message_id} | message | shape | {"content_parts": parts}


def _is_owned(completion_id: str, principal: str | None) -> ColumnElement[bool]:
    table = stored_completions.c
    wanted = and_(table.id == completion_id, table.deleted_at.is_(None))
    return wanted if principal is None else and_(wanted, table.principal == principal)


def _encode(found: Row[Any]) -> bytes:
    return to_completion(found.body, found.metadata)
