"""`jan export`: the log as lines of JSON, for another server, for a rebuild, for other tools."""

import argparse
import sys
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import BinaryIO

import msgspec

from bus import Bus, Stored, header_value, open_bus, streams
from cli.exits import Exit
from cli.moments import past_moment
from cli.progress import Progress
from cli.state import State, default_data, load
from schemas import ids, subjects
from schemas.errors import BusError, BusUnavailable
from schemas.exports import export
from workers.persistence.facts import Fact, to_fact

HELP = "write the log to stdout, one JSON object a line"
_MSG_ID = b"Nats-Msg-Id"
_MOST_KNOWN = 1_000_000  # of a principal's runs; about 100 bytes each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    when = "10m, 2h, or 2026-11-24T10:00 (UTC)"
    parser.add_argument("--since", type=past_moment, metavar="WHEN", help=f"from {when} on")
    parser.add_argument("--until", type=past_moment, metavar="WHEN", help=f"up to {when}")
    parser.add_argument("--principal", metavar="ID", help="what is about this principal")
    parser.add_argument("--data", default=default_data(), help="of which server")


async def main(args: argparse.Namespace) -> int:
    """Write what the log holds now."""
    state = load(args.data)
    belongs = Belonging(args.principal, state).check if args.principal else _everything
    try:
        async with open_bus(state.nats_url("cli"), name="jan export") as bus:
            await write_log(
                bus, sys.stdout.buffer, since=args.since, until=args.until, belongs=belongs
            )
    except BusUnavailable as error:
        raise Exit(f"{error.message}: is the server running?") from None
    except BusError as error:
        raise Exit(f"the export is not whole, the bus does not answer: {error.message}") from None
    return 0


async def write_log(
    bus: Bus,
    out: BinaryIO,
    *,
    since: float | None = None,
    until: float | None = None,
    belongs: "Belongs",
) -> int:
    """Write the log as far as it is now, one batch after the other; returns how many facts."""
    first, last = await streams.bounds(bus, subjects.EVENTS)
    progress = Progress("exported", last - first + 1)
    start = datetime.fromtimestamp(since, UTC).isoformat() if since is not None else None
    messages = bus.read_subject(subjects.EVENTS, "events.>", max(first, 1), start_time=start)
    count = 0
    async with aclosing(messages):
        async for stored in messages:
            if stored.seq > last or (until is not None and stored.time > until):
                break
            fact = to_fact(stored)
            if belongs(fact):
                out.write(to_line(stored, fact))
                count += 1
            progress.step(count, stored.seq - first + 1)
    out.flush()
    progress.end(count)
    return count


def to_line(stored: Stored, fact: Fact) -> bytes:
    """Write a fact as a line; of one that was imported, the time is the original's."""
    msg_id = header_value(stored.headers, _MSG_ID) or b""
    return export(stored.seq, fact.time, stored.subject, msg_id.decode("latin-1"), stored.data)


Belongs = Callable[[Fact], bool]


def _everything(_fact: Fact) -> bool:
    return True


class _Job(msgspec.Struct):
    run_id: str = ""
    principal: str = ""


class _About(msgspec.Struct):
    run_id: str | None = None
    principal: str | None = None
    command: _Job | str | None = None  # a job in what was accepted, an id in what was changed


_decode_about = msgspec.json.Decoder(_About).decode


class Belonging:
    """Tells which facts are about a principal.

    A run's id says whose it is, to who has the secret that it was made with; without that, a run is
    known from the fact that it was accepted on.
    """

    def __init__(self, principal: str, state: State) -> None:
        self._principal = principal
        self._secret = _find_secret(state)
        self._runs: set[str] = set()

    def check(self, fact: Fact) -> bool:
        """Tell of one, in the order of the log."""
        try:
            about = _decode_about(fact.data)
        except (msgspec.DecodeError, ValueError):
            return False  # nobody can say whose it is
        if isinstance(about.command, _Job):
            if about.command.principal != self._principal:
                return False
            if len(self._runs) < _MOST_KNOWN:
                self._runs.add(about.command.run_id)
            return True
        if about.principal is not None:
            return about.principal == self._principal
        return about.run_id is not None and self._is_theirs(about.run_id)

    def _is_theirs(self, run_id: str) -> bool:
        if run_id in self._runs:
            return True
        if self._secret is None or ids.run_id_of(run_id) != run_id:
            return False
        return ids.is_owner(run_id, self._principal, self._secret)


def _find_secret(state: State) -> bytes | None:
    try:
        return state.api_key_secret.encode()
    except Exit:
        return None
