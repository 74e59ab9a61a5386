"""Reading prompts. Every query is scoped by the principal."""

from typing import Any

import msgspec
from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api import prompts as api
from schemas.api.lists import Paging, encode_page
from schemas.commands import encode
from schemas.errors import InvalidRequest, NotFound
from schemas.queries.prompts import AskPrompt, AskPrompts, AskPromptVersions, AskRendered
from workers.persistence import changes
from workers.persistence.commands.prompts import find_newest, is_prompt, to_prompt
from workers.persistence.conditions import lives, living
from workers.persistence.queries.pages import OwnedList, read_owned, read_page
from workers.persistence.tables import prompt_templates

_SERVED = [
    *[column for column in prompt_templates.c if column.name != "project_id"],
    living(prompt_templates.c.project_id).label("project_id"),
]


async def get_prompt(connection: AsyncConnection, ask: AskPrompt) -> bytes:
    """A prompt's newest version, or a certain one. Raises NotFound."""
    question = select(*_SERVED).where(*is_prompt(ask.principal, ask.id))
    if ask.version is not None:
        question = question.where(prompt_templates.c.revision == ask.version)
    newest = question.order_by(prompt_templates.c.revision.desc()).limit(1)
    found = (await connection.execute(newest)).first()
    if found is None:
        raise _missing(ask.id, ask.version)
    return _encode(found)


async def list_prompts(connection: AsyncConnection, ask: AskPrompts) -> bytes:
    """A page of the principal's prompts, each in its newest version, by their age."""
    table = prompt_templates.c
    other = prompt_templates.alias()
    newest = select(func.max(other.c.revision)).where(other.c.id == table.id).scalar_subquery()
    question = select(*_SERVED).where(
        table.principal == ask.principal, table.deleted_at.is_(None), table.revision == newest
    )
    if ask.project_id is not None:
        question = question.where(table.project_id == ask.project_id, lives(ask.project_id))
    if ask.model is not None:
        question = question.where(table.model == ask.model)
    owned = OwnedList(prompt_templates, "prompt", ask.principal, ask.paging)
    return await read_owned(connection, question, owned, _encode)


async def list_versions(connection: AsyncConnection, ask: AskPromptVersions) -> bytes:
    """A page of a prompt's versions; their numbers are the places in it. Raises NotFound."""
    if await find_newest(connection, ask.principal, ask.id) is None:
        raise _missing(ask.id)
    question = select(*_SERVED).where(*is_prompt(ask.principal, ask.id))
    page = await read_page(
        connection,
        question,
        prompt_templates.c.revision,
        ask.paging,
        after=_to_revision(ask.paging, "after"),
        before=_to_revision(ask.paging, "before"),
    )
    places = [str(row.revision) for row in page.rows]
    return encode_page(places, list(map(_encode, page.rows)), has_more=page.has_more)


async def render(connection: AsyncConnection, ask: AskRendered) -> api.Rendered:
    """A prompt's messages with the given values in their places.

    Raises NotFound and InvalidRequest, which name the field of a request with a prompt.
    """
    row = await find_newest(connection, ask.principal, ask.id, ask.version)
    if row is None:
        error = _missing(ask.id, ask.version)
        error.param = "prompt.version" if error.param else "prompt.id"
        raise error
    await connection.rollback()  # the rest is work without the database
    prompt = to_prompt(row)
    messages = api.render(row["messages"], prompt.variables, ask.variables)
    return api.Rendered(
        prompt.id,
        prompt.version,
        prompt.model,
        msgspec.json.decode(messages, type=list[msgspec.Raw]),
    )


def _missing(prompt_id: str, version: int | None = None) -> NotFound:
    if version is None:
        return NotFound(f"there is no prompt {prompt_id}")
    return NotFound(f"there is no version {version} of a prompt {prompt_id}", param="version")


def _to_revision(paging: Paging, param: str) -> int | None:
    cursor: str | None = getattr(paging, param)
    if cursor is None:
        return None
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 9:
        raise InvalidRequest(f"'{param}' is the number of a version", param=param)
    return int(cursor)


def _encode(found: Row[Any]) -> bytes:
    return encode(to_prompt(changes.to_row(found._mapping)))
