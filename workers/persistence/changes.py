"""Changes of stored state: rows that are written, and told to the log, as they are after a change.

`apply` is the only way into the tables of STATE: for a command that is carried out, for a fact that
comes back from the log, for an import and for a rebuild alike.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import (
    ColumnElement,
    DateTime,
    LargeBinary,
    RowMapping,
    Table,
    Text,
    any_,
    bindparam,
    delete,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY, Insert, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api.items import text_of
from schemas.commands import encode
from schemas.events import StateChanged
from workers.persistence.tables import (
    STATE,
    conversation_items,
    deleted_users,
    erasures,
)

Row = dict[str, Any]  # times in unix seconds, JSON in binary columns as bytes
Rows = Mapping[str, list[Row]]  # by table

_BORN: Final = {"user_settings": "updated_at"}  # where it is not `created_at`
TABLES: Final = {table.name: table for table in STATE}

# The nouns of the facts that carry rows.
NOUNS: Final = frozenset(
    (
        *("conversation", "project", "settings", "template", "share", "completion", "user"),
        *("document", "response"),
    )
)


@dataclass(frozen=True, slots=True)
class Effect:
    """What a command does: the fact `events.<noun>.<verb>`, the rows as they become, the answer."""

    noun: str
    verb: str
    entity: str
    rows: Rows = field(default_factory=dict)
    answer: bytes = b"{}"


async def apply(connection: AsyncConnection, rows: Rows, *, locked: bool = False) -> None:
    """Write rows in the caller's transaction; one that is known in a newer version stays.

    `locked`: the caller has locked the conversations that the rows belong to, none is deleted.
    """
    for name, table in TABLES.items():  # in one order everywhere, or two would deadlock
        values = _newest(table, rows.get(name, ()))
        if values:
            await connection.execute(_UPSERTS[name], values if len(values) > 1 else values[0])
    if not locked or any(row["deleted_at"] for name in _OWNERS for row in rows.get(name, ())):
        await _purge(connection, rows)
    await _purge_users(connection, rows)
    await _ask_erasures(connection, rows)


async def apply_told(connection: AsyncConnection, rows: Rows) -> None:
    """Write rows that the log tells of, as far as they are not there.

    Most are: the command that told them wrote them. To look first locks nothing, so the projection
    and commands do not wait for each other.
    """
    missing: dict[str, list[Row]] = {}
    for name, told in rows.items():
        known = await _versions(connection, TABLES[name], told)
        left = [row for row in told if known.get(_key(TABLES[name], row), -1) < row["version"]]
        if left:
            missing[name] = left
    if missing:
        await apply(connection, missing)


async def _versions(
    connection: AsyncConnection, table: Table, rows: Iterable[Row]
) -> dict[tuple[Any, ...], int]:
    keys = {_key(table, row) for row in rows}
    if not keys:
        return {}
    columns = list(table.primary_key)
    wanted: ColumnElement[bool] = tuple_(*columns).in_(sorted(keys))
    if len(columns) == 1:
        wanted = columns[0] == any_(bindparam("keys", [key for (key,) in keys], ARRAY(Text)))
    found = await connection.execute(select(*columns, table.c.version).where(wanted))
    return {tuple(row[:-1]): row[-1] for row in found}


def _key(table: Table, row: Row) -> tuple[Any, ...]:
    return tuple(row[column.name] for column in table.primary_key)


async def _purge_users(connection: AsyncConnection, rows: Rows) -> None:
    """Take away what deleted principals had, also if its fact comes after their deletion."""
    named = {row["principal"] for changed in rows.values() for row in changed}
    if not named:
        return
    found = await connection.execute(_DELETED_USERS, {"named": sorted(named)})
    for principal, deleted_at in found.all():
        for statement in _USER_PURGES:
            await connection.execute(statement, {"whose": principal, "until": deleted_at})


async def _ask_erasures(connection: AsyncConnection, rows: Rows) -> None:
    """Note what has to go from the log, for each tombstone."""
    asked = [
        {
            "entity": row[column],
            "kind": table,
            "principal": row["principal"],
            "within": row["conversation_id"] if table in _INSIDE else None,
            "asked_at": datetime.fromtimestamp(at, UTC),
        }
        for table, column in _ERASED.items()
        for row in rows.get(table, ())
        if (at := _gone_at(table, row))
    ]
    if asked:
        await connection.execute(_ASK_ERASURE, asked)


def _gone_at(table: str, row: Row) -> float | None:
    """When what a row has was deleted. A share's conversation takes it along, if it is."""
    at: float | None = row["deleted_at"]
    if table == "shares":
        at = row["revoked_at"] if at is None else None
    return at


async def _purge(connection: AsyncConnection, rows: Rows) -> None:
    """Take away what belongs to what is deleted, also if its fact comes after the deletion.

    A deletion then needs not name all items, and nothing of them stays but their number in the log.
    """
    for owner, (column, parts) in _OWNERS.items():
        touched = {row["id"] for row in rows.get(owner, ()) if row["deleted_at"]}
        for name in parts:
            touched |= {row[column] for row in rows.get(name, ())}
        if touched:
            for name in parts:
                await connection.execute(_PURGES[name], {"touched": sorted(touched)})


def encode_rows(rows: Rows) -> dict[str, list[dict[str, msgspec.Raw]]]:
    """Put rows into the form in which the log has them."""
    return {
        name: [{column: _to_raw(value) for column, value in row.items()} for row in changed]
        for name, changed in rows.items()
        if changed
    }


def decode_rows(event: StateChanged) -> dict[str, list[Row]]:
    """Take the rows from a fact. Tables and columns of a newer release are left out."""
    return {
        name: [
            {
                column: _from_raw(table, column, raw)
                for column, raw in row.items()
                if column in table.c
            }
            for row in event.rows[name]
        ]
        for name, table in TABLES.items()
        if name in event.rows
    }


def _to_raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(value if isinstance(value, bytes) else encode(value))


def _from_raw(table: Table, column: str, raw: msgspec.Raw) -> Any:
    told = bytes(raw)
    if isinstance(table.c[column].type, LargeBinary):
        return told if told != b"null" else None
    return msgspec.json.decode(told)


def _newest(table: Table, rows: Iterable[Row]) -> list[Row]:
    """Of rows of one key the newest, in the order of their keys, all with all columns."""
    newest: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row[column.name] for column in table.primary_key)
        if key not in newest or newest[key]["version"] < row["version"]:
            newest[key] = row
    if table is conversation_items:
        newest = {key: row | {"text": _searched(row)} for key, row in newest.items()}
    columns = _written(table)
    return [
        {name: _to_value(table, name, newest[key].get(name)) for name in columns}
        for key in sorted(newest)
    ]


def _to_value(table: Table, column: str, value: Any) -> Any:
    if value is not None and isinstance(table.c[column].type, DateTime):
        return datetime.fromtimestamp(value, UTC)
    return value


def _written(table: Table) -> list[str]:
    return [column.name for column in table.c if column.computed is None]


def _searched(row: Row) -> str | None:
    """The text of an item, which follows from its content: facts need not carry it twice."""
    content = row.get("content")
    if content is None:
        return None
    return text_of(msgspec.json.decode(content)).replace("\0", "\ufffd") or None


def _to_upsert(table: Table) -> Insert:
    statement = insert(table)
    keys = {column.name for column in table.primary_key}
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={name: statement.excluded[name] for name in _written(table) if name not in keys},
        where=statement.excluded.version > table.c.version,
    )


_UPSERTS: Final = {table.name: _to_upsert(table) for table in STATE}
_ERASED: Final = {
    "conversations": "id",
    "stored_completions": "id",
    "responses": "id",
    "projects": "id",
    "prompt_templates": "id",
    "deleted_users": "principal",
    "conversation_items": "id",
    "shares": "id",
    "search_files": "id",
}
_INSIDE: Final = ("conversation_items", "shares")  # that lie in facts about a conversation
_ASK: Final = insert(erasures)
_ASK_ERASURE: Final = _ASK.on_conflict_do_update(  # who comes back can be deleted again
    index_elements=[erasures.c.entity],
    set_={"asked_at": _ASK.excluded.asked_at, "done_at": None},
    where=_ASK.excluded.asked_at > erasures.c.asked_at,
)
_DELETED_USERS: Final = select(deleted_users.c.principal, deleted_users.c.deleted_at).where(
    deleted_users.c.principal == any_(bindparam("named", type_=ARRAY(Text)))
)
_USER_PURGES: Final = [
    delete(table).where(
        table.c.principal == bindparam("whose"),
        table.c[_BORN.get(table.name, "created_at")] <= bindparam("until"),
    )
    for table in STATE
    if table is not deleted_users
]
# What has parts that go with it, the column by which they name it, and they.
_OWNERS: Final = {
    "conversations": ("conversation_id", ("conversation_branches", "conversation_items")),
    "responses": ("response_id", ("response_items",)),
}
_PURGES: Final = {
    name: delete(TABLES[name]).where(
        TABLES[name]
        .c[column]
        .in_(
            select(TABLES[owner].c.id).where(
                TABLES[owner].c.id == any_(bindparam("touched", type_=ARRAY(Text))),
                TABLES[owner].c.deleted_at.is_not(None),
            )
        )
    )
    for owner, (column, parts) in _OWNERS.items()
    for name in parts
}


async def find(
    connection: AsyncConnection,
    table: Table,
    *conditions: ColumnElement[bool],
    locked: bool = False,
) -> Row | None:
    """Read the one row that meets the conditions and is not deleted, as it would be written.

    `locked` keeps others from changing it until the transaction ends.
    """
    question = select(*[table.c[name] for name in _written(table)]).where(*conditions)
    if table is not deleted_users:
        question = question.where(table.c.deleted_at.is_(None))
    found = (await connection.execute(question.with_for_update() if locked else question)).first()
    return to_row(found._mapping) if found is not None else None


def to_row(found: RowMapping) -> Row:
    """Put what the database has into the form that is written."""
    return {
        name: value.timestamp() if isinstance(value, datetime) else value
        for name, value in found.items()
    }
