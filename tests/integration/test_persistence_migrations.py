"""The migrations on a real PostgreSQL: complete, safe for several at once, and reversible."""

import asyncio

import pytest
from alembic.util import CommandError
from sqlalchemy import text

from tests.support.postgres import PostgresServer
from workers.persistence import migrate
from workers.persistence.database import open_engine, to_url
from workers.persistence.tables import metadata


async def run(url: str, statement: str) -> list[str]:
    engine = open_engine(url, pool_size=1)
    try:
        async with engine.begin() as connection:
            result = await connection.execute(text(statement))
            return [str(row[0]) for row in result] if result.returns_rows else []
    finally:
        await engine.dispose()


async def tables(url: str) -> set[str]:
    return set(await run(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))


async def check(url: str) -> None:
    engine = open_engine(url, pool_size=1)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate.check)
    finally:
        await engine.dispose()


async def test_the_migrations_make_the_tables_that_the_code_knows(
    postgres: PostgresServer,
) -> None:
    async with postgres.database(migrated=False) as url:
        applied = await migrate.upgrade(url)
        assert applied[0] == "0001_pre_runs"
        assert await tables(url) == {*metadata.tables, "alembic_version"}
        await check(url)
        await run(url, "ALTER TABLE runs ADD COLUMN forgotten text")
        with pytest.raises(CommandError, match="forgotten"):
            await check(url)


async def test_a_second_upgrade_finds_nothing_to_do(postgres: PostgresServer) -> None:
    async with postgres.database() as url:
        assert await migrate.upgrade(url) == []


async def test_replicas_that_start_together_migrate_once(postgres: PostgresServer) -> None:
    async with postgres.database(migrated=False) as url:
        answers = await asyncio.gather(*[migrate.upgrade(url) for _ in range(5)])
        assert sorted(map(len, answers))[:4] == [0, 0, 0, 0]
        await check(url)


async def test_every_migration_can_be_undone_and_done_again(postgres: PostgresServer) -> None:
    async with postgres.database() as url:
        await run(url, "INSERT INTO runs (run_id, status) VALUES ('run_x', 'accepted')")
        undone = await migrate.downgrade(url, "base")
        assert await tables(url) == {"alembic_version"}
        assert await migrate.upgrade(url) == undone[::-1]
        await check(url)


async def test_vectors_can_be_used(postgres: PostgresServer) -> None:
    async with postgres.database() as url:
        assert await run(url, "SELECT '[1,2]'::vector <-> '[1,3]'::vector") == ["1.0"]


@pytest.mark.parametrize(
    "url", ["postgres://a@b/c", "postgresql://a@b/c", "postgresql+psycopg://a@b/c"]
)
def test_usual_addresses_are_understood(url: str) -> None:
    assert to_url(url).render_as_string() == "postgresql+psycopg://a@b/c"


@pytest.mark.parametrize("url", ["mysql://a@b/c", "nonsense", ""])
def test_other_addresses_are_refused_without_showing_them(url: str) -> None:
    with pytest.raises(ValueError, match="database"):
        to_url(url)
