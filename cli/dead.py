"""`jan dead`: messages that no worker could handle: looked at, and sent again."""

import argparse
import re
from typing import Any

import msgspec

from bus import Bus, open_bus
from cli.exits import BadSetup, Exit
from cli.moments import show_moment
from cli.redrive import Grave, Secret, find_grave, read_graves, send_again
from cli.state import State, default_data, load
from cli.timeline import printable, show_size
from schemas import subjects
from schemas.errors import BusError, BusUnavailable, JanError

HELP = "show messages that no worker could handle, and send them again"
_FILTER = re.compile(r"[\w-]+|\*|>")
_WIDE = 100  # characters of an error that a list shows
_SHOWN = 100_000  # characters of a body that `show` prints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    _add_common(parser)
    _add_filter(parser)
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=False)
    listing = what.add_parser("list", help="one line each (the default)")
    _add_filter(listing)
    show = what.add_parser("show", help="one of them, with all that is known")
    show.add_argument("seq", type=int, metavar="SEQ", help="its number, as the list shows it")
    retry = what.add_parser("retry", help="send again, as it was")
    _add_filter(retry)
    retry.add_argument("seq", type=int, metavar="SEQ", nargs="*", help="these")
    retry.add_argument("--all", action="store_true", help="all that were not sent again yet")
    retry.add_argument("--again", action="store_true", help="also what was sent again before")
    for verb in (listing, show, retry):
        _add_common(verb)
    parser.set_defaults(what="list", subject=None, json=False, data=default_data())


# What is given before the verb stays if it is not given after it: no default of the verb's own.
def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help="one JSON object a line, for programs",
    )
    parser.add_argument("--data", default=argparse.SUPPRESS, help="of which server")


def _add_filter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--subject",
        metavar="FILTER",
        default=argparse.SUPPRESS,
        help="those sent on this subject; * and > as NATS has them",
    )


async def main(args: argparse.Namespace) -> int:
    """Do one of them. Exit codes: 1 nothing is there, or something could not be sent again."""
    state = load(args.data)
    subject = read_filter(args.subject)
    try:
        async with open_bus(state.nats_url("cli"), name="jan dead") as bus:
            match args.what:
                case "show":
                    return await _show(bus, args)
                case "retry":
                    return await _retry(bus, state, args, subject)
                case _:
                    return await _list(bus, args, subject)
    except BusUnavailable as error:
        raise Exit(f"{error.message}: is the server running?") from None
    except BusError as error:
        raise Exit(f"the bus does not answer: {error.message}") from None


def read_filter(given: str | None) -> str:
    """Read a filter of subjects. Raises BadSetup."""
    if given is None:
        return ">"
    tokens = given.split(".")
    if not all(map(_FILTER.fullmatch, tokens)) or ">" in tokens[:-1]:
        raise BadSetup(f"--subject: {given!r} is no subject such as events.run.> or jobs.*.*.*")
    return given


async def _list(bus: Bus, args: argparse.Namespace, subject: str) -> int:
    count = 0
    async for grave in read_graves(bus, subject):
        count += 1
        print(to_json(grave) if args.json else to_row(grave))
    if not count and not args.json:
        print("nothing is dead")
    return 0


async def _show(bus: Bus, args: argparse.Namespace) -> int:
    grave = await _find(bus, args.seq)
    if args.json:
        print(to_json(grave, with_body=True))
    else:
        print("\n".join(to_page(grave)))
    return 0


async def _find(bus: Bus, seq: int) -> Grave:
    grave = await find_grave(bus, seq) if seq > 0 else None
    if grave is None:
        raise Exit(f"no dead message has the number {seq}: jan dead lists them")
    return grave


async def _retry(bus: Bus, state: State, args: argparse.Namespace, subject: str) -> int:
    if bool(args.seq) == args.all or (args.seq and args.subject):
        raise BadSetup("which ones? jan dead retry SEQ, or --all [--subject FILTER]")
    chosen = args.seq
    if args.all:  # as of now: what is buried again meanwhile is not sent for ever
        found = read_graves(bus, subject)
        chosen = [grave.stored.seq async for grave in found if _is_due(grave, args)]
        if not chosen and not args.json:
            print("there is nothing to send again")

    def secret() -> bytes:
        return state.api_key_secret.encode()

    done = [await _retry_one(bus, await _find(bus, seq), secret, args) for seq in chosen]
    return 0 if all(done) else 1


def _is_due(grave: Grave, args: argparse.Namespace) -> bool:
    return args.again or not grave.retries


async def _retry_one(bus: Bus, grave: Grave, secret: Secret, args: argparse.Namespace) -> bool:
    """Send one again, and say what came of it; false if it could not be done."""
    seq = grave.stored.seq
    if not _is_due(grave, args):
        told = f"it was sent again at {show_moment(grave.retries[-1].at)}: --again repeats that"
        return _say(args, grave, error=told)
    try:
        sent = await send_again(bus, grave, secret)
    except BusError:
        raise
    except JanError as error:  # what a command was answered with
        return _say(args, grave, error=f"sent again, and refused: {error.message}")
    if sent is None:
        return _say(args, grave, error="somebody else has just sent it again")
    note = sent.retried
    if args.json:
        told = msgspec.to_builtins(note) | {"told": sent.told or None}
        print(msgspec.json.encode(told).decode())
    else:
        words = f"{seq}: sent again on {note.subject}, message {note.stored} of {grave.stream}"
        print(printable(f"{words} ({sent.told})" if sent.told else words))
    return True


def _say(args: argparse.Namespace, grave: Grave, *, error: str) -> bool:
    seq = grave.stored.seq
    if args.json:
        print(msgspec.json.encode({"seq": seq, "error": error}).decode())
    else:
        print(printable(f"{seq}: {error}"))
    return False


def to_row(grave: Grave) -> str:
    """One line: number, when, subject, size, why, and whether it was sent again."""
    stored = grave.stored
    again = f"  (sent again {show_moment(grave.retries[-1].at)})" if grave.retries else ""
    named = f"{stored.seq:>6}  {show_moment(stored.time)}  {grave.subject}"
    error = grave.error if len(grave.error) <= _WIDE else f"{grave.error[: _WIDE - 1]}…"
    return printable(f"{named}  {show_size(len(stored.data))}  {error}{again}")


def to_page(grave: Grave) -> list[str]:
    """All that is known of one: headers, history, body."""
    stored = grave.stored
    lines = [
        f"{stored.seq}  {grave.subject}",
        f"  was      message {grave.sequence} of {grave.stream}",
        f"  error    {grave.error}",
        f"  buried   {show_moment(stored.time)} UTC",
    ]
    for note in grave.retries:
        became = f"message {note.stored} of {grave.stream}"
        became += f", {note.run_id}" if note.run_id else ""
        lines.append(f"  retried  {show_moment(note.at)} UTC, as {became}")
    for name, value in _headers(stored.headers):
        if name != subjects.ERROR:
            lines.append(f"  header   {name}: {value}")
    lines = [*map(printable, lines), f"  body     {show_size(len(stored.data))}", ""]
    return [*lines, *map(printable, _pretty(stored.data).splitlines())]


def _headers(block: bytes) -> list[tuple[str, str]]:
    """What came with it; the server's own words about where it lies are left out."""
    lines = block.decode("latin-1").split("\r\n")[1:]
    told = [
        (name, value.strip())
        for name, colon, value in (one.partition(":") for one in lines)
        if colon
    ]
    return [one for one in told if one[0] == "Nats-Msg-Id" or not one[0].startswith("Nats-")]


def _pretty(body: bytes) -> str:
    """A body for people: JSON over lines, all else as Python writes bytes."""
    try:
        msgspec.json.decode(body)
        text = msgspec.json.format(body, indent=2).decode()
    except (msgspec.DecodeError, ValueError):
        text = repr(body)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} … (--json has all of it)"


def to_json(grave: Grave, *, with_body: bool = False) -> str:
    """One JSON object."""
    stored = grave.stored
    told: dict[str, Any] = {
        "seq": stored.seq,
        "at": stored.time,
        "stream": grave.stream,
        "subject": grave.subject,
        "sequence": grave.sequence,
        "error": grave.error,
        "bytes": len(stored.data),
        "retried": grave.retries,
    }
    if with_body:
        told["headers"] = dict(_headers(stored.headers))
        told |= _body(stored.data)
    return msgspec.json.encode(told).decode()


def _body(data: bytes) -> dict[str, Any]:
    try:
        return {"data": msgspec.json.decode(data)}
    except (msgspec.DecodeError, ValueError):
        return {"base64": data}  # as msgspec writes bytes
