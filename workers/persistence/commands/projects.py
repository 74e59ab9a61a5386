"""Commands about projects.

Names are unique for each owner. Commands see to that, not an index: facts are written in any order.
"""

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import ids, writes
from schemas.api.projects import Project, ProjectDeleted, Webhook
from schemas.commands import Command, encode
from schemas.errors import Conflict, InvalidRequest, NotFound
from workers.persistence.changes import Effect, Row, find
from workers.persistence.locks import take_turn
from workers.persistence.tables import projects

NOUN = "project"


async def create(
    connection: AsyncConnection, command: Command, body: writes.CreateProject
) -> Effect:
    """Make a project. Raises Conflict if the name is taken."""
    await _require_free(connection, command.principal, body.name)
    row: Row = {
        "id": ids.new_id("proj_"),
        "principal": command.principal,
        "version": 1,
        "name": body.name,
        "instruction": body.instruction,
        "is_favorite": body.is_favorite,
        "is_archived": False,
        **_to_webhook({}, body.webhook),
        "created_at": command.at,
        "updated_at": command.at,
        "archived_at": None,
        "deleted_at": None,
    }
    return _to_effect("created", row)


async def update(
    connection: AsyncConnection, command: Command, body: writes.UpdateProject
) -> Effect:
    """Change what is named. Conversations keep the instruction that they came in with.

    Raises NotFound, Conflict, InvalidRequest.
    """
    if body.name is not msgspec.UNSET:
        await _require_free(connection, command.principal, body.name, but=body.id)
    row = await _lock(connection, command.principal, body.id)
    if body.version is not None and body.version != row["version"]:
        raise Conflict(
            f"the project has been changed: its version is {row['version']} now",
            param="If-Match",
            code="version_conflict",
        )
    for name in ("name", "instruction", "is_favorite"):
        if (value := getattr(body, name)) is not msgspec.UNSET:
            row[name] = value
    if body.is_archived is not msgspec.UNSET and body.is_archived != row["is_archived"]:
        archived_at = command.at if body.is_archived else None
        row |= {"is_archived": body.is_archived, "archived_at": archived_at}
    if body.webhook is not msgspec.UNSET:
        row |= _to_webhook(row, body.webhook)
    _touch(row, command.at)
    return _to_effect("updated", row)


async def delete(
    connection: AsyncConnection, command: Command, body: writes.DeleteProject
) -> Effect:
    """Delete a project. Its conversations stay as they are: a project that is gone is read as none.

    So it takes no longer with a million of them.
    """
    row = await _lock(connection, command.principal, body.id)
    row |= {"name": None, "instruction": None, "deleted_at": command.at}
    row |= _to_webhook(row, None)
    _touch(row, command.at)
    answer = encode(ProjectDeleted(id=body.id))
    return Effect(NOUN, "deleted", body.id, {"projects": [row]}, answer)


def to_project(row: Row) -> Project:
    """A project as it is served."""
    archived_at = row["archived_at"]
    return Project(
        id=row["id"],
        name=row["name"],
        instruction=row["instruction"],
        is_favorite=row["is_favorite"],
        is_archived=row["is_archived"],
        webhook=_to_told(row),
        archived_at=int(archived_at) if archived_at is not None else None,
        created_at=int(row["created_at"]),
        updated_at=int(row["updated_at"]),
        version=row["version"],
    )


def _to_told(row: Row) -> Webhook | None:
    if row["webhook_url"] is None:
        return None
    return Webhook(url=row["webhook_url"], has_secret=row["webhook_secret"] is not None)


def _to_webhook(row: Row, change: writes.WebhookChange | None) -> Row:
    """The columns of a project's webhook after a change. Raises InvalidRequest."""
    if change is None:
        return {"webhook_url": None, "webhook_secret": None}
    url, secret = row.get("webhook_url"), row.get("webhook_secret")
    url = url if change.url is msgspec.UNSET else change.url
    if url is None:
        raise InvalidRequest(
            "'webhook.url' is required", param="webhook.url", code="missing_required_parameter"
        )
    return {
        "webhook_url": url,
        "webhook_secret": secret if change.secret is msgspec.UNSET else change.secret,
    }


async def _require_free(
    connection: AsyncConnection, principal: str, name: str, but: str = ""
) -> None:
    """Keep others from taking the name meanwhile. Raises Conflict if it is taken."""
    await take_turn(connection, NOUN, principal)
    table = projects.c
    taken = await find(
        connection, projects, table.principal == principal, table.name == name, table.id != but
    )
    if taken is not None:
        raise Conflict(f"'name': there is a project {name!r} already", param="name")


async def _lock(connection: AsyncConnection, principal: str, project_id: str) -> Row:
    table = projects.c
    row = await find(
        connection, projects, table.id == project_id, table.principal == principal, locked=True
    )
    if row is None:
        raise NotFound(f"there is no project {project_id}")
    return row


def _touch(row: Row, at: float) -> None:
    row["version"] += 1
    row["updated_at"] = max(at, row["updated_at"])


def _to_effect(verb: str, row: Row) -> Effect:
    return Effect(NOUN, verb, row["id"], {"projects": [row]}, encode(to_project(row)))
