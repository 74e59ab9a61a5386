"""`jan import-events`: what `jan export` wrote, into the log of another server.

Facts keep their order, their ids and their times; each says that it was imported, and with which
sequence it was exported. So the log itself tells how far an import has come, and one that was
stopped goes on from there.
"""

import argparse
import asyncio
import hashlib
import re
import sys
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from bus import Ack, Bus, header_value, open_bus, streams
from cli.exits import BadSetup, Exit
from cli.progress import Progress
from cli.state import default_data, load
from schemas import subjects
from schemas.errors import BusError, BusUnavailable, WrongLastSequence
from schemas.exports import ExportedFact, decode_exported

HELP = "put what `jan export` wrote into the log of this server"
_SUBJECT = re.compile(r"events\.[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_MSG_ID = re.compile(r"[\x21-\x7e]{1,512}")
_WINDOW = 256  # messages without their ack
_CHUNK = 1 << 20  # bytes of lines that are read at once
_ACK_SECONDS = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", help="what jan export wrote; - is stdin")
    parser.add_argument(
        "--append", action="store_true", help="also behind what the log holds already"
    )
    parser.add_argument("--data", default=default_data(), help="of which server")


async def main(args: argparse.Namespace) -> int:
    """Import a file. Exit codes: 1 it stopped in the middle, 2 the log is not empty."""
    url = load(args.data).nats_url("cli")
    try:
        with open_input(args.file) as file:
            async with open_bus(url, name="jan import-events") as bus:
                await import_file(bus, file, append=args.append)
    except BusUnavailable as error:
        raise Exit(f"{error.message}: is the server running?") from None
    except BusError as error:
        raise Exit(f"{error.message}: the same command goes on where it stopped") from None
    return 0


def open_input(name: str) -> BinaryIO:
    """Open a file, or stdin. Raises BadSetup."""
    if name == "-":
        return sys.stdin.buffer
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise BadSetup(f"{name} can't be read: {error.strerror}") from None


async def import_file(bus: Bus, file: BinaryIO, *, append: bool = False) -> int:
    """Store a file's facts; returns how many. Raises BadSetup if the log holds something else."""
    progress = Progress("imported")
    facts = read_exported(file)
    first = await anext(facts, None)
    if first is None:
        return 0
    export = _name_of(first)
    done = await _find_start(bus, export, append=append)
    _, end = await streams.bounds(bus, subjects.EVENTS)
    sender = _Sender(bus, export, None if append else end)
    try:
        if first.seq > done:
            await sender.send(first)
        async for fact in facts:
            if fact.seq > done:
                await sender.send(fact)
                progress.step(sender.sent, sender.sent)
    finally:  # before a line that is wrong, too: what is not known to be stored is sent once more
        await sender.drain()
        progress.end(sender.sent)
    return sender.sent


async def _find_start(bus: Bus, export: str, *, append: bool) -> int:
    """The exported sequence that the log has already; 0: nothing of this export is there."""
    last = await bus.last_message(subjects.EVENTS, "events.>")
    if last is None:
        return 0
    if header_value(last.headers, subjects.EXPORT.encode()) == export.encode():
        done = int(header_value(last.headers, subjects.EXPORTED_SEQ.encode()) or 0)
        print(f"jan: going on after message {done} of the export", file=sys.stderr)
        return done
    if not append:
        raise BadSetup("the log is not empty: --append puts the facts behind what it holds")
    return 0


def _name_of(first: ExportedFact) -> str:
    """Tell exports apart by how they begin."""
    told = f"{first.seq} {first.time!r} {first.subject}\0".encode() + first.body
    return hashlib.sha256(told).hexdigest()[:16]


async def read_exported(file: BinaryIO) -> AsyncIterator[ExportedFact]:
    """Read and check a file's lines, some at a time. Raises BadSetup naming the line."""
    number = 0
    before = 0
    while lines := await asyncio.to_thread(file.readlines, _CHUNK):
        for line in lines:
            number += 1
            if not line.strip():
                continue
            try:
                fact = decode_exported(line)
                _check(fact, before)
            except (msgspec.DecodeError, ValueError) as error:
                raise BadSetup(f"line {number} is none of an export: {error}") from None
            before = fact.seq
            yield fact


def _check(fact: ExportedFact, before: int) -> None:
    """Raise ValueError if a fact can't have come from a log."""
    if fact.seq <= before:
        raise ValueError(f"its sequence {fact.seq} is not after {before}")
    if not _SUBJECT.fullmatch(fact.subject):
        raise ValueError(f"{fact.subject!r} is no subject of the log")
    if fact.id and not _MSG_ID.fullmatch(fact.id):
        raise ValueError("its id is not one")
    if not 0 < fact.time < 1e11:
        raise ValueError("its time is not one")
    len(fact.body)


class _Sending(NamedTuple):
    fact: ExportedFact
    msg_id: str
    ack: "asyncio.Future[Ack | BusError]"


class _Sender:
    """Stores facts in their order, many under way at a time.

    Alone in the log (`end` is its last sequence), each says which one must be the last: after one
    that was not stored none is, so the log never has a gap. A fact whose id the server has just
    seen, as the log had it twice with hours in between, goes once more under another id.
    """

    def __init__(self, bus: Bus, export: str, end: int | None) -> None:
        self._bus = bus
        self._export = export
        self.sent = 0
        self._end = end
        self._under_way: deque[_Sending] = deque()

    async def send(self, fact: ExportedFact) -> None:
        """Send one; waits for the oldest if too many are under way. Raises BusError, Exit."""
        while len(self._under_way) >= _WINDOW:
            await self._settle()
        self._send(fact, fact.id or f"EVENTS:imported:{fact.seq}")
        self.sent += 1

    async def drain(self) -> None:
        """Wait until all are stored."""
        while self._under_way:
            await self._settle()

    def _send(self, fact: ExportedFact, msg_id: str) -> None:
        answer: asyncio.Future[Ack | BusError] = asyncio.get_running_loop().create_future()

        def on_ack(ack: Ack | BusError) -> None:
            if not answer.done():
                answer.set_result(ack)

        headers = subjects.imported_headers(fact.time)
        headers += f"{subjects.EXPORTED_SEQ}: {fact.seq}\r\n".encode()
        headers += f"{subjects.EXPORT}: {self._export}\r\n".encode()
        if self._end is not None:
            headers += b"Nats-Expected-Last-Sequence: %d\r\n" % self._end
            self._end += 1
        self._bus.send_stored(
            fact.subject,
            fact.body,
            on_ack,
            msg_id=msg_id,
            headers=headers,
            timeout=_ACK_SECONDS,
        )
        self._under_way.append(_Sending(fact, msg_id, answer))

    async def _settle(self) -> None:
        """Wait for the oldest's ack."""
        sending = self._under_way.popleft()
        ack = await sending.ack
        if isinstance(ack, Ack):
            if ack.duplicate:
                await self._repeat(sending)
            return
        if isinstance(ack, WrongLastSequence):
            raise Exit(
                "somebody else writes to the log: stop the edges first, or import with --append"
            )
        raise ack

    async def _repeat(self, repeated: _Sending) -> None:
        """Send one under another id; alone in the log, also all that were refused after it."""
        after: list[_Sending] = []
        if self._end is not None:
            self._end -= 1 + len(self._under_way)
            after, self._under_way = list(self._under_way), deque()
            await asyncio.gather(*[one.ack for one in after])
        self._send(repeated.fact, f"{repeated.msg_id}:{repeated.fact.seq}")
        for one in after:
            self._send(one.fact, one.msg_id)
