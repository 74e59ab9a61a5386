"""Commands about prompts. A version never changes; only deletion touches its row again."""

import msgspec
from msgspec import UNSET
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import ids, writes
from schemas.api import prompts as api
from schemas.commands import Command, encode
from schemas.errors import Conflict, InvalidRequest, NotFound
from workers.persistence.changes import Effect, Row, to_row
from workers.persistence.commands.conversations import read_instruction
from workers.persistence.locks import take_turn
from workers.persistence.tables import prompt_templates

NOUN = "template"
_PREFIX = "pmpt_"


async def create(
    connection: AsyncConnection, command: Command, body: writes.CreatePrompt
) -> Effect:
    """Keep a prompt's first version. Raises Conflict if the name is taken."""
    await take_turn(connection, NOUN, command.principal)
    if await find_newest(connection, command.principal, body.name) is not None:
        raise Conflict(f"'name': there is a prompt {body.name!r} already", param="name")
    await read_instruction(connection, command.principal, body.project_id)
    messages = bytes(body.messages)
    variables = api.to_variables(api.placeholders(messages), body.variables)
    row: Row = {
        "id": ids.new_id(_PREFIX),
        "revision": 1,
        "principal": command.principal,
        "version": 1,
        "name": body.name,
        "description": body.description,
        "project_id": body.project_id,
        "model": body.model,
        "messages": messages,
        "variables": msgspec.to_builtins(variables),
        "created_at": command.at,
        "deleted_at": None,
    }
    return Effect(NOUN, "created", row["id"], {"prompt_templates": [row]}, encode(to_prompt(row)))


async def create_version(
    connection: AsyncConnection, command: Command, body: writes.CreatePromptVersion
) -> Effect:
    """Keep a new version of a prompt, as the newest but for what is named."""
    await take_turn(connection, NOUN, command.principal)
    newest = await find_newest(connection, command.principal, body.id)
    if newest is None:
        raise NotFound(f"there is no prompt {body.id}")
    if body.version is not None and body.version != newest["revision"]:
        raise Conflict(
            f"the prompt has been changed: its version is {newest['revision']} now",
            param="If-Match",
            code="version_conflict",
        )
    if newest["revision"] >= api.MAX_VERSIONS:
        raise InvalidRequest(f"a prompt can have {api.MAX_VERSIONS} versions, not more")
    row = newest | {"revision": newest["revision"] + 1, "version": 1, "created_at": command.at}
    for name in ("model", "project_id", "description"):
        if (value := getattr(body, name)) is not UNSET:
            row[name] = value
    if body.project_id is not UNSET:
        await read_instruction(connection, command.principal, body.project_id)
    if body.messages is not None:
        row["messages"] = bytes(body.messages)
    row["variables"] = _to_variables(row, body)
    return Effect(
        NOUN, "version_created", row["id"], {"prompt_templates": [row]}, encode(to_prompt(row))
    )


async def delete(
    connection: AsyncConnection, command: Command, body: writes.DeletePrompt
) -> Effect:
    """Delete a prompt with all its versions; its name is free again."""
    await take_turn(connection, NOUN, command.principal)
    newest = await find_newest(connection, command.principal, body.id)
    if newest is None:
        raise NotFound(f"there is no prompt {body.id}")
    prompt_id = newest["id"]
    question = select(prompt_templates).where(
        prompt_templates.c.id == prompt_id, prompt_templates.c.deleted_at.is_(None)
    )
    found = (await connection.execute(question)).all()
    rows = [_to_tombstone(to_row(version._mapping), command.at) for version in found]
    answer = encode(api.PromptDeleted(id=prompt_id))
    return Effect(NOUN, "deleted", prompt_id, {"prompt_templates": rows}, answer)


async def find_newest(
    connection: AsyncConnection, principal: str | None, id_or_name: str, version: int | None = None
) -> Row | None:
    """Read the newest version of a principal's prompt, or a certain one."""
    question = (
        select(prompt_templates)
        .where(*is_prompt(principal, id_or_name))
        .order_by(prompt_templates.c.revision.desc())
        .limit(1)
    )
    if version is not None:
        question = question.where(prompt_templates.c.revision == version)
    found = (await connection.execute(question)).first()
    return to_row(found._mapping) if found is not None else None


def is_prompt(principal: str | None, id_or_name: str) -> tuple[ColumnElement[bool], ...]:
    """The conditions that a row is one of a prompt's versions."""
    table = prompt_templates.c
    named = table.id if id_or_name.startswith(_PREFIX) else table.name
    return named == id_or_name, table.principal == principal, table.deleted_at.is_(None)


def to_prompt(row: Row) -> api.Prompt:
    """A prompt's version as it is served."""
    return api.Prompt(
        id=row["id"],
        name=row["name"],
        version=row["revision"],
        description=row["description"],
        project_id=row["project_id"],
        model=row["model"],
        messages=msgspec.json.decode(row["messages"], type=list[msgspec.Raw]),
        variables=msgspec.convert(row["variables"], dict[str, api.Variable]),
        created_at=int(row["created_at"]),
    )


def _to_variables(row: Row, body: writes.CreatePromptVersion) -> dict[str, object]:
    """A version's variables; those that were declared before stay where messages have them yet."""
    names = api.placeholders(row["messages"])
    if body.variables is not UNSET:
        declared = body.variables
    else:
        known = msgspec.convert(row["variables"], dict[str, api.Variable])
        declared = {name: variable for name, variable in known.items() if name in names}
    variables: dict[str, object] = msgspec.to_builtins(api.to_variables(names, declared))
    return variables


def _to_tombstone(row: Row, at: float) -> Row:
    return row | {
        "version": row["version"] + 1,
        "name": None,
        "description": None,
        "model": None,
        "messages": None,
        "variables": {},
        "deleted_at": at,
    }
