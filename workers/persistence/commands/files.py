"""Commands about the documents that a search looks in."""

from typing import Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import ids, writes
from schemas.commands import Command, encode
from schemas.errors import InvalidRequest, NotFound
from workers.persistence.changes import Effect, Row, find
from workers.persistence.chunks import split
from workers.persistence.locks import take_turn
from workers.persistence.tables import search_files

NOUN: Final = "document"
MAX_DOCUMENTS: Final = 10_000  # of a principal
MAX_CHUNKS: Final = 2000  # of a document: about two million characters

_PREFIX: Final = "doc_"


async def index(connection: AsyncConnection, command: Command, body: writes.IndexFile) -> Effect:
    """Have a text found, in place of what the document said before. Raises InvalidRequest."""
    pieces = split(body.text)
    if len(pieces) > MAX_CHUNKS:
        raise InvalidRequest(f"'text': a document can have {MAX_CHUNKS} pieces, not more")
    await take_turn(connection, NOUN, command.principal)
    before = await _find(connection, command.principal, body.store, body.document)
    if before is None:
        await _require_room(connection, command.principal)
    row = before or {
        "id": ids.new_id(_PREFIX),
        "principal": command.principal,
        "version": 0,
        "document": body.document,
        "store": body.store,
        "chunks": 0,
        "created_at": command.at,
        "deleted_at": None,
    }
    left = row["chunks"] - len(pieces)
    row = row | {
        "version": row["version"] + 1,
        "name": body.name or None,
        "attributes": msgspec.to_builtins(body.attributes),
        "chunks": len(pieces),
        "updated_at": command.at,
    }
    chunks = [_to_chunk(row, number, text) for number, text in enumerate(pieces)]
    chunks += [_gone(row, len(pieces) + number, command.at) for number in range(left)]
    answer = writes.IndexedFile(body.document, len(pieces), updated=before is not None)
    rows = {"search_files": [row], "search_chunks": chunks}
    return Effect(NOUN, "indexed", row["id"], rows, encode(answer))


async def forget(connection: AsyncConnection, command: Command, body: writes.ForgetFile) -> Effect:
    """Have a document found no more. Raises NotFound."""
    await take_turn(connection, NOUN, command.principal)
    row = await _find(connection, command.principal, body.store, body.document)
    if row is None:
        raise NotFound(f"there is no document {body.document!r}")
    count = row["chunks"]
    row |= {
        "version": row["version"] + 1,
        "name": None,
        "attributes": {},
        "chunks": 0,
        "updated_at": command.at,
        "deleted_at": command.at,
    }
    rows = {
        "search_files": [row],
        "search_chunks": [_gone(row, number, command.at) for number in range(count)],
    }
    return Effect(NOUN, "deleted", row["id"], rows)


async def _find(
    connection: AsyncConnection, principal: str, store: str, document: str
) -> Row | None:
    table = search_files.c
    return await find(
        connection,
        search_files,
        table.principal == principal,
        table.store == store,
        table.document == document,
        locked=True,
    )


async def _require_room(connection: AsyncConnection, principal: str) -> None:
    table = search_files.c
    question = select(func.count()).where(table.principal == principal, table.deleted_at.is_(None))
    if (await connection.scalar(question) or 0) >= MAX_DOCUMENTS:
        raise InvalidRequest(f"{MAX_DOCUMENTS} documents can be indexed, not more")


def _to_chunk(file: Row, number: int, text: str | None) -> Row:
    return {
        "id": f"{file['id']}:{number}",
        "file_id": file["id"],
        "number": number,
        "principal": file["principal"],
        "version": file["version"],
        "text": text,
        "created_at": file["created_at"],
        "deleted_at": None,
    }


def _gone(file: Row, number: int, at: float) -> Row:
    """A piece that the document has no more; it stays without its words."""
    return _to_chunk(file, number, None) | {"deleted_at": at}
