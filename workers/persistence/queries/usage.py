"""What was used: runs and their tokens, added up from the one row that each run has.

A response has used what its steps have: they are not counted beside it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Date, Numeric, String, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api.usage import MAX_ROWS, UsageList
from schemas.commands import encode
from schemas.errors import InvalidRequest
from schemas.queries.usage import AskUsage
from workers.persistence.tables import runs

_GROUPS: Final[Mapping[str, ColumnElement[Any]]] = {
    "day": cast(cast(func.timezone("UTC", runs.c.accepted_at), Date), String),
    "model": runs.c.model,
    "key": runs.c.api_key_id,
    "project": runs.c.project_id,
    "principal": runs.c.principal,
}


async def sum_usage(connection: AsyncConnection, ask: AskUsage) -> bytes:
    """Add up a time's runs, by group. Raises InvalidRequest if there are too many groups."""
    groups = [_GROUPS[name].label(name) for name in ask.group_by]
    question = select(
        *groups,
        func.count().label("requests"),
        func.count().filter(runs.c.status == "failed").label("failed"),
        func.count().filter(runs.c.status == "cancelled").label("cancelled"),
        *[
            cast(func.coalesce(func.sum(cast(runs.c[name], Numeric)), 0), BigInteger).label(name)
            for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        ],
    ).where(
        runs.c.accepted_at >= datetime.fromtimestamp(ask.start, UTC),
        runs.c.accepted_at < datetime.fromtimestamp(ask.end, UTC),
        runs.c.status != "refused",
        runs.c.parent.is_(None),
    )
    if ask.principal is not None:
        question = question.where(runs.c.principal == ask.principal)
    question = question.group_by(*groups).order_by(*groups).limit(MAX_ROWS + 1)
    rows = [dict(row._mapping) for row in await connection.execute(question)]
    if len(rows) > MAX_ROWS:
        raise InvalidRequest(
            f"there are more than {MAX_ROWS} groups: ask for a shorter time", param="start"
        )
    return encode(
        UsageList(start=int(ask.start), end=int(ask.end), group_by=ask.group_by, data=rows)
    )
