"""Reading stored responses. Every query is scoped by the principal."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Select, Text, and_, any_, bindparam, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from schemas import ids
from schemas.api.items import MAX_ITEMS_BYTES
from schemas.api.lists import encode_page
from schemas.commands import UsedHistory, encode
from schemas.errors import InvalidRequest, JanError, NotFound
from schemas.queries.conversations import MAX_CONTEXT_ITEMS
from schemas.queries.responses import (
    AskResponse,
    AskResponseContext,
    AskResponseInput,
    ResponseContext,
)
from workers.persistence.queries.asked import ASKED, find_asked, is_asked
from workers.persistence.queries.pages import read_page
from workers.persistence.queries.runs import ReadAccepted, last_fact
from workers.persistence.queries.turns import choose
from workers.persistence.statements import Statement
from workers.persistence.tables import conversation_items, response_items, responses, runs
from workers.persistence.told import with_told

MAX_CHAIN: Final = 1000  # responses
_AT_WORK: Final = ("accepted", "running")

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


_RESPONSES: Final = Statement(
    select(ASKED.c.number, responses.c.id, responses.c.body).where(is_asked(responses))
)
_OUTPUT: Final = Statement(
    select(response_items.c.response_id, response_items.c.content)
    .where(
        response_items.c.response_id == any_(bindparam("responses", type_=ARRAY(Text))),
        response_items.c.is_output,
    )
    .order_by(response_items.c.response_id, response_items.c.position)
)


async def get_responses(
    connection: AsyncConnection, asks: Sequence[AskResponse]
) -> list[bytes | JanError]:
    """Responses as they were at their ends, each its asker's, or NotFound."""
    rows = await find_asked(connection, _RESPONSES, asks)
    output: dict[str, list[bytes]] = defaultdict(list)
    for response_id, content in await _OUTPUT.all(
        connection, {"responses": [row.id for row in rows if row is not None]}
    ):
        output[response_id].append(content)
    return [
        _to_response(row.body, output[row.id])
        if row is not None and row.body is not None
        else NotFound(f"there is no response {ask.id}")
        for ask, row in zip(asks, rows, strict=True)
    ]


def _to_response(body: bytes, output: Sequence[bytes]) -> bytes:
    return encode(_decode_fields(body) | {"output": msgspec.Raw(b"[%b]" % b",".join(output))})


async def list_input(connection: AsyncConnection, ask: AskResponseInput) -> bytes:
    """A page of what a response was asked. Raises NotFound, InvalidRequest."""
    known = select(responses.c.id).where(_is_owned(ask.id, ask.principal))
    if await connection.scalar(known) is None:
        raise NotFound(f"there is no response {ask.id}")
    table = response_items.c
    asked = and_(table.response_id == ask.id, ~table.is_output)
    places: dict[str, int] = {}
    for param in ("after", "before"):
        cursor = getattr(ask.paging, param)
        if cursor is None:
            continue
        place = await connection.scalar(
            select(func.min(table.position)).where(asked, table.id == cursor)
        )
        if place is None:
            raise InvalidRequest(
                f"'{param}': there is no item {cursor} in what this response was asked", param=param
            )
        places[param] = place
    question = select(table.id, table.content).where(asked)
    page = await read_page(connection, question, table.position, ask.paging, **places)
    return encode_page(
        [row.id for row in page.rows], [row.content for row in page.rows], has_more=page.has_more
    )


async def get_context(
    connection: AsyncConnection, ask: AskResponseContext, read_accepted: ReadAccepted
) -> ResponseContext:
    """What a new response goes on from. Raises NotFound naming the field, InvalidRequest."""
    items, history = list[bytes](), None
    if ask.previous is not None:
        await _require_previous(connection, ask, ask.previous, read_accepted)
        items, history = await _read_chain(connection, ask.previous)
    named = [name for name in dict.fromkeys(ask.references) if name]
    referred = await find_items(connection, ask.principal, named) if named else {}
    for number, name in enumerate(ask.references):
        if name and name not in referred:
            raise NotFound(f"there is no item {name}", param=f"input[{number}].id")
    if sum(map(len, referred.values())) > MAX_ITEMS_BYTES // 2:
        raise InvalidRequest(
            f"'input' refers to items of more than {MAX_ITEMS_BYTES // 2} bytes", param="input"
        )
    return ResponseContext(
        list(map(msgspec.Raw, items)),
        {name: msgspec.Raw(item) for name, item in referred.items()},
        history,
    )


async def find_items(
    connection: AsyncConnection, principal: str | None, named: Sequence[str]
) -> dict[str, bytes]:
    """A principal's items by their ids: of responses, else of conversations."""
    values = {"whose": principal, "named": list(named)}
    items = await connection.execute(_ITEMS, values)
    found = {row.id: with_told(row.content, row.told) for row in items}
    values["named"] = [name for name in named if name not in found]
    if values["named"]:
        said = await connection.execute(_CONVERSATION_ITEMS, values)
        found |= {row.id: with_told(row.content, row.told) for row in said}
    return found


class _Outlined(NamedTuple):
    """An item of a chain: the older, the lower its position."""

    position: int
    role: str | None
    size: int


async def _read_chain(
    connection: AsyncConnection, last: str
) -> tuple[list[bytes], UsedHistory | None]:
    """The items of a response and all before it, oldest first: as many of the newest as fit.

    If all of them do, also what the oldest had of its conversation.
    """
    sizes = (await connection.execute(_OUTLINE, {"last": last})).all()
    outline = [_Outlined(-number, row.role, row.size) for number, row in enumerate(sizes)]
    first, trimmed = choose(outline)
    kept = sum(row.position >= first for row in outline[:MAX_CONTEXT_ITEMS])
    if not kept:
        return [], None
    newest = await connection.execute(_CONTENTS, {"last": last, "kept": kept})
    items = [with_told(row.content, row.told) for row in newest][::-1]
    oldest = sizes[-1]
    if trimmed or oldest.conversation_id is None:
        return items, None
    return items, await _read_history(connection, oldest.conversation_id, oldest.run_id)


async def _read_history(
    connection: AsyncConnection, conversation: str, run_id: str
) -> UsedHistory | None:
    """What a conversation's branch had before this run."""
    response_id = ids.public_id(run_id, "response")
    values = {"response": response_id, "conversation": conversation, "run": run_id}
    found = (await connection.execute(_TURN, values)).first()
    return None if found is None else UsedHistory(conversation, found.branch, found.first - 1)


async def _require_previous(
    connection: AsyncConnection,
    ask: AskResponseContext,
    response_id: str,
    read_accepted: ReadAccepted,
) -> None:
    owned = _is_owned(response_id, ask.principal, deleted=ask.deleted)
    known = select(responses.c.id).where(owned)
    if await connection.scalar(known) is not None:
        return
    message = f"there is no response {response_id}"
    seq = await connection.scalar(_at_work(last_fact("accepted"), response_id, ask.principal))
    accepted = await read_accepted(seq) if seq else None
    # One that is not to be kept can't be gone on from, whether it has ended or not.
    if accepted is not None and accepted.command.stored:
        message = f"the response {response_id} has not ended yet"
    raise NotFound(message, param="previous_response_id", code="previous_response_not_found")


async def is_at_work(connection: AsyncConnection, response_id: str, principal: str | None) -> bool:
    """Tell whether a response of the principal's has begun and not ended."""
    found = await connection.scalar(_at_work(runs.c.run_id, response_id, principal))
    return found is not None


def _at_work(
    column: ColumnElement[Any], response_id: str, principal: str | None
) -> Select[tuple[Any]]:
    """A column of a response that has begun and not ended."""
    found = select(column).where(
        runs.c.run_id == (ids.run_id_of(response_id, "response") or ""),
        runs.c.kind == "response",
        runs.c.status.in_(_AT_WORK),
    )
    return found if principal is None else found.where(runs.c.principal == principal)


def _is_owned(
    response_id: str, principal: str | None, *, deleted: bool = False
) -> ColumnElement[bool]:
    """Whether a row is this response of the principal's; `deleted`: even if it was deleted."""
    wanted = responses.c.id == response_id
    if not deleted:
        wanted = and_(wanted, responses.c.deleted_at.is_(None))
    return wanted if principal is None else and_(wanted, responses.c.principal == principal)


def _to_chain() -> Any:
    """A response and those before it, the newest with depth 0; over those that were deleted."""
    table = responses.c
    columns = (table.id, table.principal, table.run_id, table.conversation_id)
    chain = (
        select(*columns, table.previous_response_id, literal(0).label("depth"))
        .where(table.id == bindparam("last"))
        .cte("chain", recursive=True)
    )
    before = aliased(responses, name="earlier")
    return chain.union_all(
        select(
            before.c.id,
            before.c.principal,
            before.c.run_id,
            before.c.conversation_id,
            before.c.previous_response_id,
            chain.c.depth + 1,
        ).where(
            before.c.id == chain.c.previous_response_id,
            before.c.principal == chain.c.principal,
            chain.c.depth < MAX_CHAIN - 1,
        )
    )


_chain = _to_chain()
_of_chain = (
    select()
    .select_from(_chain)
    .join(response_items, response_items.c.response_id == _chain.c.id)
    .order_by(_chain.c.depth, response_items.c.position.desc())
)
_OUTLINE: Final = _of_chain.add_columns(
    _chain.c.run_id,
    _chain.c.conversation_id,
    response_items.c.role,
    (
        func.octet_length(response_items.c.content)
        + func.coalesce(func.octet_length(response_items.c.told), 0)
    ).label("size"),
).limit(MAX_CONTEXT_ITEMS + 1)
_CONTENTS: Final = _of_chain.add_columns(response_items.c.content, response_items.c.told).limit(
    bindparam("kept")
)


def _to_turn() -> Select[tuple[str, int]]:
    """Where a run's items begin in a conversation: by one of them that has kept its id there."""
    item = aliased(conversation_items, name="known").c
    known = (
        select(item.branch, item.position)
        .join(response_items, response_items.c.id == item.id)
        .where(
            response_items.c.response_id == bindparam("response"),
            item.conversation_id == bindparam("conversation"),
            item.run_id == bindparam("run"),  # not what its input refers to
        )
        .limit(1)
        .subquery()
    )
    table = conversation_items.c
    return (
        select(table.branch, func.min(table.position).label("first"))
        .where(
            table.conversation_id == bindparam("conversation"),
            table.branch == known.c.branch,
            table.position.between(known.c.position - MAX_CONTEXT_ITEMS, known.c.position),
            table.run_id == bindparam("run"),
        )
        .group_by(table.branch)
    )


_TURN: Final = _to_turn()
_named = any_(bindparam("named", type_=ARRAY(Text)))
_ITEMS: Final = (
    select(response_items.c.id, response_items.c.content, response_items.c.told)
    .where(response_items.c.principal == bindparam("whose"), response_items.c.id == _named)
    .order_by(response_items.c.response_id, response_items.c.position)  # the newest counts
)
_CONVERSATION_ITEMS: Final = select(
    conversation_items.c.id, conversation_items.c.content, conversation_items.c.told
).where(
    conversation_items.c.principal == bindparam("whose"),
    conversation_items.c.id == _named,
    conversation_items.c.deleted_at.is_(None),
)
