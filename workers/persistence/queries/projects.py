"""Reading projects. Every query is scoped by the principal."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.commands import Webhook, encode
from schemas.errors import JanError, NotFound
from schemas.queries.projects import AskProject, AskProjects, ProjectWebhook
from workers.persistence.changes import to_row
from workers.persistence.commands.projects import to_project
from workers.persistence.queries.asked import ASKED, find_asked, is_asked
from workers.persistence.queries.pages import OwnedList, read_owned
from workers.persistence.statements import Statement
from workers.persistence.tables import projects

_PROJECTS: Final = Statement(select(ASKED.c.number, *projects.c).where(is_asked(projects)))


async def get_projects(
    connection: AsyncConnection, asks: Sequence[AskProject]
) -> list[bytes | JanError]:
    """Projects, each its asker's, or NotFound."""
    rows = await find_asked(connection, _PROJECTS, asks)
    return [
        encode(to_project(to_row(row._asdict())))
        if row is not None
        else NotFound(f"there is no project {ask.id}")
        for ask, row in zip(asks, rows, strict=True)
    ]


async def get_webhook(connection: AsyncConnection, ask: AskProject) -> ProjectWebhook:
    """Whom the principal's project tells of responses, with the sealed secret; perhaps nobody."""
    table = projects.c
    question = select(table.webhook_url, table.webhook_secret).where(
        table.id == ask.id, table.principal == ask.principal, table.deleted_at.is_(None)
    )
    row = (await connection.execute(question)).first()
    if row is None or row.webhook_url is None:
        return ProjectWebhook()
    return ProjectWebhook(Webhook(row.webhook_url, row.webhook_secret or ""))


async def list_projects(connection: AsyncConnection, ask: AskProjects) -> bytes:
    """A page of the principal's projects, by their age."""
    table = projects.c
    question = select(projects).where(table.principal == ask.principal, table.deleted_at.is_(None))
    if ask.archived is not None:
        question = question.where(table.is_archived == ask.archived)
    if ask.favorite is not None:
        question = question.where(table.is_favorite == ask.favorite)
    owned = OwnedList(projects, "project", ask.principal, ask.paging)
    return await read_owned(connection, question, owned, _encode)


def _encode(found: Row[Any]) -> bytes:
    return encode(to_project(to_row(found._mapping)))
