"""What alembic runs: on the connection of `migrate.upgrade`, or on its own for developers."""

import asyncio
import os

from alembic import context
from sqlalchemy.engine import Connection

from workers.persistence.database import open_engine
from workers.persistence.tables import metadata


def run(connection: Connection) -> None:
    """Run the asked-for migrations on an open connection."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_alone() -> None:
    """Connect to JAN_DATABASE_URL first: somebody called alembic's own command."""
    engine = open_engine(os.environ["JAN_DATABASE_URL"], pool_size=1)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    asyncio.run(run_alone())
