"""Reading what happened to stored things."""

from sqlalchemy import Double, cast, extract, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.queries.entities import AskEntity, EntityEvents
from schemas.queries.runs import EventAt
from workers.persistence.tables import entity_events

_MOST_EVENTS = 1000


async def get_events(connection: AsyncConnection, ask: AskEntity) -> EntityEvents:
    """Where the facts about a thing lie in the log, oldest first."""
    table = entity_events.c
    at = cast(extract("epoch", table.at), Double).label("at")
    question = select(table.seq, table.verb, at).where(
        table.entity == ask.entity.replace("\0", "\ufffd")
    )
    if ask.principal is not None:
        question = question.where(table.principal == ask.principal)
    found = await connection.execute(question.order_by(table.seq).limit(_MOST_EVENTS))
    return EntityEvents(ask.entity, [EventAt(row.seq, row.verb, row.at) for row in found])
