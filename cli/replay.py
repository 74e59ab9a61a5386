"""`jan replay ID`: run a recorded run again, in a sandbox, and compare."""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from bus import Bucket, Bus, ObjectStore, open_bus, open_store
from cli.comparison import in_colour, to_report
from cli.exits import BadSetup, Exit
from cli.log import locate, parse_id
from cli.member import build_settings
from cli.moments import past_moment
from cli.repeats import Filter, Repeats, Repetition
from cli.run_reader import Reader, asking
from cli.state import State, default_data, load
from edge.admission import Admission
from edge.inbox import open_inbox
from edge.recorded import Requests
from edge.replays import NOT_ENDED, Recorded, Replays
from edge.responses.references import References
from edge.responses.replaying import Repeating
from schemas import ids, subjects
from schemas.api.replays import Replay
from schemas.catalogue import Catalogue, decode_catalogue
from schemas.commands import Target
from schemas.errors import BusUnavailable, JanError
from schemas.replays import target_of

HELP = "run a recorded run again, and compare"
DIFFERENT = 1  # like every failure: only 0 says that nothing has changed
_NAME = "jan-replay"  # where no edge's frames are heard
_MANY = 100
_AT_A_TIME = 2
_MOST_SECONDS = 3000.0  # frames are kept for an hour


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "id", nargs="?", help="run_…, chatcmpl-…, cmpl-…, msg_…, or a request's X-Request-Id"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--model", metavar="ID", help="on another model")
    where.add_argument("--deployment", metavar="ID", help="on this deployment: PROVIDER/MODEL")
    parser.add_argument(
        "--at", type=int, default=1, metavar="STEP", help="a response: from which step on (1)"
    )
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="seconds that one may take (600)"
    )
    parser.add_argument("--many", action="store_true", help="replay every run that the filters let")
    parser.add_argument(
        "--since",
        type=past_moment,
        metavar="WHEN",
        help="--many: accepted since 1h, 7d, 2026-11-24, …",
    )
    parser.add_argument("--model-was", metavar="ID", help="--many: that were of this model")
    parser.add_argument("--principal", metavar="ID", help="--many: that were somebody's")
    parser.add_argument("--failed", action="store_true", help="--many: that failed")
    parser.add_argument("--limit", type=int, metavar="N", help="--many: so many at most (100)")
    parser.add_argument("--concurrency", type=int, metavar="N", help="--many: at a time (2)")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.add_argument("--data", default=default_data(), help="of which server")


async def main(args: argparse.Namespace) -> int:
    """Replay one run, or many. Exit codes: 0 all the same, 1 any different or failed, 2 usage."""
    check(args)
    try:
        async with open_desk(load(args.data), args.timeout) as desk:
            if args.many:
                return await _many(desk, args)
            replay = await desk.replay(
                args.id, model=args.model, deployment=args.deployment, at=args.at
            )
    except BusUnavailable as error:
        raise Exit(f"{error.message}: is the server running?") from None
    except JanError as error:
        raise Exit(error.message) from None
    if args.json:
        print(msgspec.json.encode(replay).decode())
    else:
        print(to_report(replay, colour=in_colour()))
    return 0 if replay.same is True else DIFFERENT


def check(args: argparse.Namespace) -> None:
    """Look at the options together. Raises BadSetup."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("since", "model_was", "principal", "failed", "limit", "concurrency")
        if getattr(args, name)
    ]
    if bool(args.id) == args.many:
        raise BadSetup("name one run, or --many and which")
    if given and not args.many:
        raise BadSetup(f"{given[0]} is for --many")
    if args.at < 1 or (args.many and args.at > 1):
        raise BadSetup(f"--at {args.at}: steps count from 1, and --many begins at the first")
    if not 0 < args.timeout <= _MOST_SECONDS:
        raise BadSetup(f"--timeout is up to {_MOST_SECONDS:g} seconds: frames are kept for an hour")
    for name in ("limit", "concurrency"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise BadSetup(f"--{name} is 1 or more")


class ObjectSettings(BaseSettings):
    """Where large requests lie, told by the same variables as edges and workers are."""

    model_config = SettingsConfigDict(env_prefix="JAN_", env_file=".env", extra="ignore")

    s3_url: str = ""
    s3_bucket: str = "jan"
    s3_access_key: str = ""
    s3_secret_key: SecretStr = SecretStr("")


def open_objects(data: Path) -> ObjectStore:
    """Open the object store of a server."""
    settings = build_settings(ObjectSettings)
    return open_store(
        data / "objects",
        s3_url=settings.s3_url,
        s3_bucket=settings.s3_bucket,
        access_key=settings.s3_access_key,
        secret=settings.s3_secret_key.get_secret_value(),
    )


class Desk:
    """Where replays are ordered: reads the log, and knows what is served."""

    def __init__(self, bus: Bus, catalogue: Catalogue, replays: Replays) -> None:
        self.bus = bus
        self._catalogue = catalogue
        self._replays = replays

    async def replay(
        self,
        given: str,
        *,
        model: str | None = None,
        deployment: str | None = None,
        at: int = 1,
    ) -> Replay:
        """Run a recorded run again and report. Raises Exit, BadSetup, JanError."""
        recorded = await self.find(given)
        target: Target | None = None
        if deployment is not None:
            model, target = target_of(self._catalogue, deployment, recorded.command.model)
        started = await self._replays.start(
            recorded, ids.new_run_id(), model=model, target=target, at=at
        )
        return await self._replays.report(started)

    async def find(self, given: str) -> Recorded:
        """Read a run from the log. Raises Exit if it is not there."""
        wanted = parse_id(given)
        if wanted.what not in ("run", "request"):
            raise BadSetup(f"{given!r} is a {wanted.what}: name one of its runs")
        reader = Reader(self.bus, await locate(self.bus, wanted))
        await reader.read()
        story = reader.story
        if story.accepted is not None and story.finished is not None:
            return Recorded(story.accepted, story.finished)
        if story.replay_of:
            raise Exit(f"{given} is a replay itself: replay {story.replay_of}")
        if story.accepted is not None:
            raise Exit(NOT_ENDED)
        why = "the log no longer holds its request" if story.known else "nothing is known of it"
        raise Exit(f"{given} can't be replayed: {why}")


@asynccontextmanager
async def open_desk(state: State, timeout: float) -> AsyncIterator[Desk]:
    """Connect to a server, for the context's life."""
    async with (
        open_bus(state.nats_url("cli"), name="jan replay") as bus,
        open_inbox(bus, _NAME) as inbox,
    ):
        catalogue = await read_catalogue(bus)
        find_targets = Admission(catalogue).targets
        requests = Requests(
            open_objects(state.data.path), asking(bus), References(asking(bus), state.sealing_key)
        )
        replays = Replays(
            bus, inbox, requests, find_targets, Repeating(asking(bus)), deadline=timeout
        )
        yield Desk(bus, catalogue, replays)


async def read_catalogue(bus: Bus) -> Catalogue:
    """Read which models are served. Raises Exit if nothing says so."""
    entry = await Bucket(bus, subjects.KV_MODELS).get(subjects.CATALOGUE_KEY)
    if entry is None:
        raise Exit("no model is served: jan migrate has not run")
    return decode_catalogue(entry.value)


async def _many(desk: Desk, args: argparse.Namespace) -> int:
    wanted = Filter(
        since=args.since,
        model=args.model_was,
        principal=args.principal,
        status="failed" if args.failed else None,
        limit=args.limit or _MANY,
    )

    async def repeat(run_id: str) -> Replay:
        return await desk.replay(run_id, model=args.model, deployment=args.deployment)

    def show(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    repeats = Repeats(repeat, args.concurrency or _AT_A_TIME, show, colour=in_colour())
    done: list[Repetition] = await repeats.run(await wanted.find(desk.bus))
    if args.json:
        print(msgspec.json.encode({"runs": done, "totals": repeats.totals()}).decode())
    return 0 if all(one.result == "same" for one in done) else DIFFERENT
