"""Finding what files say: by words, best first, and nobody's but the asker's."""

from typing import Any, Final

from sqlalchemy import Text, cast, func, literal, select
from sqlalchemy.dialects.postgresql import REGCONFIG, TSQUERY
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.errors import InvalidRequest
from schemas.queries.files import AskSearch, Hit, Hits
from workers.persistence.queries.attributes import to_condition
from workers.persistence.queries.lexemes import of_owner
from workers.persistence.tables import search_chunks, search_files

_SCALED: Final = 1 | 32  # of ts_rank: long pieces count less, and all is between 0 and 1


async def search(connection: AsyncConnection, ask: AskSearch) -> Hits:
    """The pieces with most of the words. Raises InvalidRequest."""
    if ask.principal is None:
        raise InvalidRequest("whose files?", param="principal")
    chunk, file = search_chunks.c, search_files.c
    words = ask.query.replace("\0", " ")
    wanted = _any_word(words, "simple").op("||")(_any_word(words, "english"))
    score = func.ts_rank(chunk.search, wanted, _SCALED).label("score")
    question = (
        select(
            file.document, file.store, file.name, file.attributes, chunk.number, chunk.text, score
        )
        .join(search_files, file.id == chunk.file_id)
        .where(
            func.numnode(wanted) > 0,  # a text without words finds nothing, not everything
            chunk.search.op("@@")(wanted.op("&&")(of_owner(ask.principal))),
            chunk.principal == ask.principal,
            chunk.deleted_at.is_(None),
            file.deleted_at.is_(None),
        )
        .order_by(score.desc(), chunk.id)
        .limit(ask.limit)
    )
    if ask.documents:
        question = question.where(file.document.in_(ask.documents))
    if ask.stores:
        question = question.where(file.store.in_(ask.stores))
    if ask.filters is not None:
        question = question.where(to_condition(ask.filters, file.attributes))
    return Hits([_to_hit(row) for row in await connection.execute(question)])


def _any_word(words: str, config: str) -> Any:
    """A tsquery of a text that any of its words meets."""
    all_words = func.plainto_tsquery(cast(literal(config), REGCONFIG), words)
    return cast(func.replace(cast(all_words, Text), " & ", " | "), TSQUERY)


def _to_hit(row: Any) -> Hit:
    return Hit(
        document=row.document,
        number=row.number,
        text=row.text or "",
        score=round(float(row.score), 4),
        store=row.store,
        name=row.name or "",
        attributes=row.attributes,
    )
