"""`jan rebuild`: tables made anew from the log, and compared with what is there."""

import argparse
import sys
import time
from pathlib import Path

from bus import open_bus
from cli.exits import BadSetup, Exit
from cli.state import default_data, load
from schemas.errors import BusError, BusUnavailable

HELP = "make tables anew from the log, and compare"
_ALL = "all"
_EVERY = 1.0  # seconds between lines of progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "projection",
        nargs="+",
        help="runs, conversations, projects, settings, prompts, completions, responses, history, "
        "users; all",
    )
    parser.add_argument("--data", default=default_data(), help="of which server")
    parser.add_argument(
        "--check", action="store_true", help="only compare; exit with 1 if anything differs"
    )
    parser.add_argument(
        "--from",
        dest="export",
        metavar="FILE",
        help="what `jan export` wrote, for what is older than the log",
    )


async def main(args: argparse.Namespace) -> int:
    """Rebuild, and say how what was there compared."""
    # Only here: the other verbs need no database library.
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from workers.persistence.database import describe  # noqa: PLC0415
    from workers.persistence.exports import read_facts  # noqa: PLC0415
    from workers.persistence.rebuild import (  # noqa: PLC0415
        PROJECTIONS,
        Incomplete,
        InUse,
        Rebuild,
    )

    names = list(PROJECTIONS) if _ALL in args.projection else args.projection
    for name in names:
        if name not in PROJECTIONS:
            raise BadSetup(f"there is no projection {name!r}: {', '.join(PROJECTIONS)}, or {_ALL}")
    state = load(args.data)
    older = read_facts(Path(args.export)) if args.export else ()
    try:
        async with open_bus(state.nats_url("cli"), name="jan rebuild") as bus:
            rebuild = Rebuild(
                state.database_url, bus, names, older, only_check=args.check, progress=Progress()
            )
            compared = await rebuild.run()
    except Incomplete as error:
        raise BadSetup(f"{error}: jan rebuild --from FILE") from None
    except InUse:
        raise Exit("another rebuild is under way") from None
    except BusUnavailable as error:
        raise Exit(str(error)) from None
    except (SQLAlchemyError, BusError, OSError, ValueError) as error:
        raise Exit(f"nothing was changed: {describe(error)}") from None
    for table in compared:
        print(f"{table.table:<24}{table.rows:>10} rows  {_verdict(table.missing, table.extra)}")
    differs = not all(table.equal for table in compared)
    if differs and not args.check:
        print("what differed was replaced by what the log says")
    return 1 if differs and args.check else 0


class Progress:
    """Tells on stderr how far a rebuild has come."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, seq: int, last: int) -> None:
        """Take a step; one a second is told, and the last."""
        if time.monotonic() - self._told >= _EVERY or seq >= last:
            self._told = time.monotonic()
            print(f"jan: {seq} of {last} messages of the log", file=sys.stderr)


def _verdict(missing: int, extra: int) -> str:
    if not missing and not extra:
        return "equal"
    return f"different: {missing} were missing, {extra} were not so"
