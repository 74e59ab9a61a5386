"""Conditions on what belongs to a project: one that was deleted is read as none."""

from typing import Any

from sqlalchemy import ColumnElement, exists, select

from workers.persistence.tables import projects


def living(project_id: ColumnElement[Any]) -> ColumnElement[Any]:
    """A project's id where the project is there, NULL where it was deleted."""
    return (
        select(projects.c.id)
        .where(projects.c.id == project_id, projects.c.deleted_at.is_(None))
        .scalar_subquery()
    )


def lives(project_id: str) -> ColumnElement[bool]:
    """The condition that a project was not deleted."""
    return exists().where(projects.c.id == project_id, projects.c.deleted_at.is_(None))
