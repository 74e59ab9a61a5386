"""Commands about stored responses. They are made by runs: `responses.py` beside `turns.py`."""

from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import writes
from schemas.commands import Command, encode
from schemas.errors import InvalidRequest, NotFound
from workers.persistence.changes import Effect, find
from workers.persistence.queries.responses import is_at_work
from workers.persistence.responses import NOUN
from workers.persistence.tables import responses


async def delete(
    connection: AsyncConnection, command: Command, body: writes.DeleteResponse
) -> Effect:
    """Delete a response with its items: `changes.apply`. Its run stays counted.

    What a conversation has of it stays there. Later responses go on with what came before it.
    Raises NotFound, InvalidRequest.
    """
    row = await find(
        connection,
        responses,
        responses.c.id == body.id,
        responses.c.principal == command.principal,
        locked=True,
    )
    if row is None and await is_at_work(connection, body.id, command.principal):
        raise InvalidRequest("the response has not ended: cancel it first", param="response_id")
    if row is None:
        raise NotFound(f"there is no response {body.id}")
    row |= {"version": row["version"] + 1, "body": None, "deleted_at": command.at}
    answer = {"id": body.id, "object": "response.deleted", "deleted": True}
    return Effect(NOUN, "deleted", body.id, {"responses": [row]}, encode(answer))
