"""Brings the database to what this release needs, one process at a time."""

from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from workers.persistence.database import describe, open_engine

logger = structlog.get_logger()

_MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK = 0x6A616E_6D6967  # "janmig": any number, as long as all releases use the same
_WAIT = "120s"  # replicas that start together wait this long for the one that migrates


async def upgrade(database_url: str) -> list[str]:
    """Apply the migrations that are missing; return their names, oldest first.

    Several processes may call it at once: one works, the others find nothing left to do.
    """
    return await _run_locked(database_url, "head")


async def downgrade(database_url: str, revision: str) -> list[str]:
    """Go back to an older revision (`base`: to an empty database); return what was undone."""
    return await _run_locked(database_url, revision, down=True)


async def _run_locked(database_url: str, revision: str, *, down: bool = False) -> list[str]:
    engine = open_engine(database_url, pool_size=1)
    try:
        async with engine.connect() as connection:
            # A lock of the session: a migration may commit in between (CREATE INDEX CONCURRENTLY).
            await connection.execute(text(f"SET lock_timeout = '{_WAIT}'"))
            await connection.execute(text("SET statement_timeout = 0"))
            await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
            await connection.commit()
            await _make_extension(connection)
            steps = await connection.run_sync(_run, revision, down)
            await connection.commit()
            return steps
    finally:
        await engine.dispose()  # closes the session, and with it the lock


def _run(connection: Connection, revision: str, down: bool) -> list[str]:
    config = _config(connection)
    before = _lineage(connection)
    (command.downgrade if down else command.upgrade)(config, revision)
    after = _lineage(connection)
    gone, come = set(before) - set(after), set(after) - set(before)
    return (
        [name for name in reversed(before) if name in gone]
        if down
        else [name for name in after if name in come]
    )


def check(connection: Connection) -> None:
    """Raise alembic's CommandError if the tables differ from what the migrations make."""
    command.check(_config(connection))


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _lineage(connection: Connection) -> list[str]:
    """The names of all migrations that the database has, oldest first."""
    heads = MigrationContext.configure(connection).get_current_heads()
    scripts = ScriptDirectory(str(_MIGRATIONS))
    names = [script.revision for script in scripts.iterate_revisions(heads, "base")]
    return names[::-1]


async def _make_extension(connection: AsyncConnection) -> None:
    """Make pgvector usable where it is installed and we may; nothing needs it to start."""
    found = await connection.scalar(
        text(
            "SELECT 1 FROM pg_available_extensions"
            " WHERE name = 'vector' AND installed_version IS NULL"
        )
    )
    if found:
        try:
            await connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
        except DBAPIError as error:
            await connection.rollback()
            logger.warning("pgvector is not enabled", error=describe(error))
    await connection.commit()
