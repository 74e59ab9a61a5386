"""`jan keys`: API keys, which every edge learns of at once; and the keys that sign tokens."""

import argparse
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec

from bus import Bucket, open_bus
from cli.exits import BadSetup, Exit
from cli.state import State, default_data, load
from schemas import ids, subjects
from schemas.errors import BusError, BusUnavailable, Conflict
from schemas.keys import (
    KeyLimits,
    KeyRecord,
    decode_record,
    decode_revocation,
    describe_key,
    encode_record,
    hash_key,
    is_revocation,
    new_key,
)

HELP = "create, list and revoke API keys"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", default=default_data(), help="of which server")
    common.add_argument("--json", action="store_true", help="for programs")
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    create = what.add_parser("create", parents=[common], help="make a key and show it, once")
    create.add_argument("--name", default="", help="what it is for")
    create.add_argument("--rpm", type=int, default=0, metavar="N", help="requests a minute; 0: any")
    create.add_argument(
        "--in-flight", type=int, default=0, metavar="N", help="requests at a time; 0: any"
    )
    create.add_argument(
        "--expires", type=_moment, metavar="WHEN", help="a date (2027-01-31), or after 90d, 12h, …"
    )
    create.add_argument(
        "--scope",
        metavar="NAME",
        action="append",
        default=[],
        help="what else it may do: admin sees providers (/v1/admin)",
    )
    create.add_argument("--principal", help="whose it is (default: an owner of its own)")
    what.add_parser("list", parents=[common], help="show all keys")
    revoke = what.add_parser("revoke", parents=[common], help="end a key on every edge")
    revoke.add_argument("id", help="as jan keys list shows it")
    what.add_parser("rotate-jwt", parents=[common], help="sign new access tokens with a new key")


def _moment(text: str) -> float:
    """Read a date or a duration from now as unix seconds."""
    after = re.fullmatch(r"(\d+)([smhdw])", text)
    if after:
        return time.time() + int(after[1]) * _UNITS[after[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("a date such as 2027-01-31, or 90d, 12h, 30m") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


async def main(args: argparse.Namespace) -> int:
    """Do one of them."""
    state = load(args.data)
    match args.what:
        case "create":
            return await _create(state, args)
        case "list":
            return await _list(state, args)
        case "revoke":
            return await _revoke(state, args)
        case _:
            return _rotate_jwt(state)


@asynccontextmanager
async def _open_keys(state: State) -> AsyncIterator[Bucket]:
    try:
        async with open_bus(state.nats_url("cli"), name="cli") as bus:
            yield Bucket(bus, subjects.KV_KEYS)
    except (BusUnavailable, BusError) as error:
        raise Exit(f"{error}: is the server running? (./jan up)") from None


async def _create(state: State, args: argparse.Namespace) -> int:
    if args.rpm < 0 or args.in_flight < 0:
        raise BadSetup("a limit is 0 or more")
    if args.expires is not None and args.expires <= time.time():
        raise BadSetup("--expires is in the past")
    async with _open_keys(state) as bucket:
        key, record = await create_key(
            bucket,
            state.api_key_secret,
            name=args.name,
            limits=KeyLimits(rpm=args.rpm, in_flight=args.in_flight),
            expires_at=args.expires,
            principal=args.principal,
            scopes=args.scope,
        )
    if args.json:
        print(msgspec.json.encode({"id": record.id, "key": key, **_shown(record)}).decode())
    else:
        print(f"{key}\n\nShown only now. Its id is {record.id}: jan keys revoke {record.id}")
    return 0


async def create_key(
    bucket: Bucket,
    secret: str,
    *,
    name: str = "",
    limits: KeyLimits | None = None,
    expires_at: float | None = None,
    principal: str | None = None,
    scopes: Sequence[str] = (),
) -> tuple[str, KeyRecord]:
    """Make a key and store what edges need to recognise it."""
    key = new_key()
    prefix, suffix = describe_key(key)
    record = KeyRecord(
        id=ids.new_id("key_"),
        name=name,
        principal=principal or ids.new_id("user_"),
        prefix=prefix,
        suffix=suffix,
        created=round(time.time(), 3),
        expires_at=expires_at,
        scopes=list(scopes),
        limits=limits or KeyLimits(),
    )
    await bucket.create(hash_key(secret.encode(), key), encode_record(record))
    return key, record


async def create_first(state: State) -> str | None:
    """Make the first key of an installation; None if it has one already."""
    async with _open_keys(state) as bucket:
        if await read_all(bucket):
            return None
        key, _ = await create_key(bucket, state.api_key_secret, name="first")
        return key


async def read_all(bucket: Bucket) -> dict[str, tuple[KeyRecord, int]]:
    """Read every key's record and revision, by its name in the bucket; the oldest first.

    Those of a principal that was deleted are revoked.
    """
    found: dict[str, tuple[KeyRecord, int]] = {}
    deleted: dict[str, float] = {}

    def on_change(name: str, value: bytes | None, revision: int) -> None:
        if value is None:
            return
        if is_revocation(name):
            told = decode_revocation(value)
            deleted[told.principal] = told.at
        else:
            found[name] = (decode_record(value), revision)

    watch = await bucket.watch(on_change)
    await watch.stop()
    for name, (record, revision) in found.items():
        at = deleted.get(record.principal, -1.0)
        if record.created <= at and record.revoked_at is None:
            found[name] = (msgspec.structs.replace(record, revoked_at=at), revision)
    return dict(sorted(found.items(), key=lambda item: item[1][0].created))


async def _list(state: State, args: argparse.Namespace) -> int:
    async with _open_keys(state) as bucket:
        records = [record for record, _ in (await read_all(bucket)).values()]
    if args.json:
        print(
            msgspec.json.encode(
                [{"id": record.id, **_shown(record)} for record in records]
            ).decode()
        )
        return 0
    rows = [["ID", "KEY", "NAME", "CREATED", "LIMITS", "STATE"], *map(_row, records)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _row(record: KeyRecord) -> list[str]:
    limits = [f"{record.limits.rpm}/min"] if record.limits.rpm else []
    limits += [f"{record.limits.in_flight} at a time"] if record.limits.in_flight else []
    shown = f"{record.prefix}…{record.suffix}"
    created = _date(record.created)
    return [record.id, shown, record.name or "-", created, ", ".join(limits) or "-", _life(record)]


def _life(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return f"revoked {_date(record.revoked_at)}"
    if record.expires_at is None:
        return "good"
    word = "expires" if record.is_usable(time.time()) else "expired"
    return f"{word} {_date(record.expires_at)}"


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


def _shown(record: KeyRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "principal": record.principal,
        "shown": f"{record.prefix}…{record.suffix}",
        "created": record.created,
        "expires_at": record.expires_at,
        "revoked_at": record.revoked_at,
        "usable": record.is_usable(time.time()),
        "limits": {"rpm": record.limits.rpm, "in_flight": record.limits.in_flight},
    }


async def _revoke(state: State, args: argparse.Namespace) -> int:
    async with _open_keys(state) as bucket:
        record = await revoke_key(bucket, args.id)
    if args.json:
        print(msgspec.json.encode({"id": record.id, **_shown(record)}).decode())
    else:
        print(f"revoked {record.id} ({record.prefix}…{record.suffix})")
    return 0


async def revoke_key(bucket: Bucket, key_id: str) -> KeyRecord:
    """Revoke a key; revoking again changes nothing. Raises BadSetup if there is no such key."""
    for name, (record, revision) in (await read_all(bucket)).items():
        if record.id != key_id:
            continue
        if record.revoked_at is not None:
            return record
        revoked = msgspec.structs.replace(record, revoked_at=round(time.time(), 3))
        try:
            await bucket.update(name, encode_record(revoked), revision)
        except Conflict:  # somebody else changed it meanwhile: look again
            return await revoke_key(bucket, key_id)
        return revoked
    raise BadSetup(f"there is no key {key_id}: jan keys list shows them")


def _rotate_jwt(state: State) -> int:
    from edge.issuer import rotate  # noqa: PLC0415 - the other verbs need no cryptography

    print(f"access tokens are signed with {rotate(state.data.keys / 'jwt')} from now on")
    return 0
