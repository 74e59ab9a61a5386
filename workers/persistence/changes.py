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
    Select,
    Table,
    Text,
    and_,
    any_,
    bindparam,
    delete,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from schemas.api.items import text_of
from schemas.commands import encode
from schemas.events import StateChanged
from workers.persistence.statements import Statement
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
            await _write(connection, _UPSERTS[name], values)
    if not locked or any(row["deleted_at"] for name in _OWNERS for row in rows.get(name, ())):
        await _purge(connection, rows)
    await _purge_users(connection, rows)
    await _ask_erasures(connection, rows)


async def _write(connection: AsyncConnection, statement: Statement, values: list[Row]) -> None:
    if len(values) == 1:
        await statement.run(connection, values[0])
    else:
        await statement.run_many(connection, values)


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
    values = {name: [key[at] for key in keys] for at, name in enumerate(_KEYS[table.name])}
    found = await _VERSIONS[table.name].all(connection, values)
    return {tuple(row[:-1]): row[-1] for row in found}


def _key(table: Table, row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _KEYS[table.name])


async def _purge_users(connection: AsyncConnection, rows: Rows) -> None:
    """Take away what deleted principals had, also if its fact comes after their deletion."""
    named = {row["principal"] for changed in rows.values() for row in changed}
    if not named:
        return
    for principal, deleted_at in await _DELETED_USERS.all(connection, {"named": sorted(named)}):
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
                await _PURGES[name].run(connection, {"touched": sorted(touched)})


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
    if column in _BINARY[table.name]:
        return told if told != b"null" else None
    return msgspec.json.decode(told)


def _newest(table: Table, rows: Iterable[Row]) -> list[Row]:
    """Of rows of one key the newest, in the order of their keys, all with all columns."""
    newest: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = _key(table, row)
        if key not in newest or newest[key]["version"] < row["version"]:
            newest[key] = row
    if table is conversation_items:
        newest = {key: row | {"text": _searched(row)} for key, row in newest.items()}
    columns = WRITTEN[table.name]
    return [
        {name: _to_value(table, name, newest[key].get(name)) for name in columns}
        for key in sorted(newest)
    ]


def _to_value(table: Table, column: str, value: Any) -> Any:
    if column in _TIMES[table.name] and value is not None:
        return datetime.fromtimestamp(value, UTC)
    if column in _JSON[table.name]:
        return encode(value).decode()
    return value


def _searched(row: Row) -> str | None:
    """The text of an item, which follows from its content: facts need not carry it twice."""
    content = row.get("content")
    if content is None:
        return None
    return text_of(msgspec.json.decode(content)).replace("\0", "\ufffd") or None


def _of_type(kind: type[TypeEngine[Any]]) -> dict[str, frozenset[str]]:
    """The columns of a type, by table."""
    return {
        table.name: frozenset(column.name for column in table.c if isinstance(column.type, kind))
        for table in STATE
    }


def _to_upsert(table: Table) -> Statement:
    columns = {name: bindparam(name, type_=table.c[name].type) for name in WRITTEN[table.name]}
    statement = insert(table).values(columns)
    return Statement(
        statement.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={
                name: statement.excluded[name] for name in columns if name not in _KEYS[table.name]
            },
            where=statement.excluded.version > table.c.version,
        )
    )


def _to_versions(table: Table) -> Statement:
    """What finds the versions of rows; their keys are given as one array for each column."""
    columns = list(table.primary_key)
    arrays = [bindparam(column.name, type_=ARRAY(column.type)) for column in columns]
    keys = func.unnest(*arrays).table_valued(*_KEYS[table.name]).render_derived("keys")
    same = and_(*[column == keys.c[column.name] for column in columns])
    return Statement(select(*columns, table.c.version).join(keys, same))


_KEYS: Final = {table.name: tuple(column.name for column in table.primary_key) for table in STATE}
WRITTEN: Final = {
    table.name: tuple(column.name for column in table.c if column.computed is None)
    for table in STATE
}
_TIMES: Final = _of_type(DateTime)
_JSON: Final = _of_type(JSONB)
_BINARY: Final = _of_type(LargeBinary)
_UPSERTS: Final = {table.name: _to_upsert(table) for table in STATE}
_VERSIONS: Final = {table.name: _to_versions(table) for table in STATE}
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
_DELETED_USERS: Final = Statement(
    select(deleted_users.c.principal, deleted_users.c.deleted_at).where(
        deleted_users.c.principal == any_(bindparam("named", type_=ARRAY(Text)))
    )
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
    name: Statement(
        delete(TABLES[name]).where(
            TABLES[name]
            .c[column]
            .in_(
                select(TABLES[owner].c.id).where(
                    TABLES[owner].c.id == any_(bindparam("touched", type_=ARRAY(Text))),
                    TABLES[owner].c.deleted_at.is_not(None),
                )
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
    found = (await connection.execute(to_find(table, *conditions, locked=locked))).first()
    return to_row(found._mapping) if found is not None else None


async def find_by(connection: AsyncConnection, statement: Statement, values: Row) -> Row | None:
    """Read the one row that a statement made with `to_find` finds."""
    found = await statement.first(connection, values)
    return to_row(found._asdict()) if found is not None else None


def to_find(table: Table, *conditions: ColumnElement[bool], locked: bool = False) -> Select[Any]:
    """What reads rows that meet the conditions and are not deleted, as they would be written."""
    question = select(*[table.c[name] for name in WRITTEN[table.name]]).where(*conditions)
    if table is not deleted_users:
        question = question.where(table.c.deleted_at.is_(None))
    return question.with_for_update() if locked else question


def to_row(found: RowMapping | Row) -> Row:
    """Put what the database has into the form that is written."""
    return {
        name: value.timestamp() if isinstance(value, datetime) else value
        for name, value in found.items()
    }
