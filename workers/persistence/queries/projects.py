"""Reading projects. Every query is scoped by the principal."""

from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api.projects import Project
from schemas.commands import encode
from schemas.errors import NotFound
from schemas.queries.projects import AskProject, AskProjects
from workers.persistence.changes import find, to_row
from workers.persistence.commands.projects import to_project
from workers.persistence.queries.pages import OwnedList, read_owned
from workers.persistence.tables import projects


async def get_project(connection: AsyncConnection, ask: AskProject) -> Project:
    """One project. Raises NotFound."""
    table = projects.c
    row = await find(connection, projects, table.id == ask.id, table.principal == ask.principal)
    if row is None:
        raise NotFound(f"there is no project {ask.id}")
    return to_project(row)


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
