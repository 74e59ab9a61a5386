"""`jan migrate`: brings streams, consumers, the catalogue and the database up to date."""

import argparse
import os
from pathlib import Path

import structlog

from bus import topology
from bus.opening import connect
from cli import logs
from cli.discovery import discover_all
from cli.exits import Exit
from cli.providers import read
from cli.state import ROOT, State, default_data, load
from schemas.errors import BusUnavailable
from schemas.providers import Discovered, Providers, default_providers

logger = structlog.get_logger()

HELP = "bring the bus and the database to what this release needs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", default=default_data(), help="the server's data directory")
    parser.add_argument("--providers", metavar="FILE", help="default: the one the server uses")
    parser.add_argument(
        "--check", action="store_true", help="only show what differs; exit with 1 if anything does"
    )


async def main(args: argparse.Namespace) -> int:
    """Run it: the bus first, then the database if there is one."""
    state = load(args.data)
    file = find_providers(args.providers, state)
    providers = read(file, str(file)) if file else default_providers()
    discovered, faults = await discover_all(providers)
    for fault in faults:
        logs.configure("migrate", "info")
        logger.warning(f"{fault}: what is known of its models stays")
    changes = await migrate_bus(state.nats_url("migrate"), providers, discovered, check=args.check)
    for change in changes:
        print(change)
    if args.check:
        return 1 if changes else 0
    steps = await _migrate_database(state)
    for step in steps:
        print(f"database: {step}")
    if not changes and not steps:
        print("nothing to do")
    return 0


async def migrate_bus(
    url: str, providers: Providers, discovered: Discovered | None = None, *, check: bool = False
) -> list[topology.Change]:
    """Apply the topology as the user `migrate`, or only find what differs. Raises Exit."""
    nc = None
    try:
        nc = await connect(url, name="migrate")
        step = topology.plan if check else topology.apply
        return await step(nc, ROOT / "nats", providers, discovered)
    except (BusUnavailable, topology.TopologyError) as error:
        raise Exit(str(error)) from None
    finally:
        if nc is not None:
            await nc.close()


def find_providers(given: str | None, state: State) -> Path | None:
    """Choose the providers file: the option, JAN_PROVIDERS, the one that the server runs with."""
    path = given or os.environ.get("JAN_PROVIDERS") or state.record.providers
    if path:
        return Path(path)
    written = state.data.path / "providers.yaml"
    return written if written.exists() else None


async def _migrate_database(state: State) -> list[str]:
    """Bring the database up to date, if one is configured."""
    if not (state.record.urls.database or os.environ.get("JAN_DATABASE_URL")):
        return []
    # Only here: an image that migrates the bus alone needs no database library.
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from workers.persistence.database import describe  # noqa: PLC0415
    from workers.persistence.migrate import upgrade  # noqa: PLC0415

    try:
        return await upgrade(state.database_url)
    except (SQLAlchemyError, ValueError) as error:
        raise Exit(f"the database can't be brought up to date: {describe(error)}") from None
