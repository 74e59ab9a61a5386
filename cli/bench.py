"""`jan bench`: what the whole server adds to an upstream, in time and in processor time.

Starts a server of its own in a temporary folder, against a fast upstream of its own, loads both
from a separate process, prints the figures and removes everything.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from cli.exits import BadSetup, Exit
from cli.launch import LaunchedServer, NotReady, environment, launched
from cli.measure import cpu, report, responses
from cli.measure.scenarios import SCENARIOS, Row, Scenario, run, to_measures, to_row

HELP = "measure the whole server against a fast upstream"
SECONDS = 8.0
QUICK_SECONDS = 2.0
WARM_UP_SECONDS = 1.0
_AT_ONCE = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--json", action="store_true", help="print JSON")
    add("--quick", action="store_true", help=f"{QUICK_SECONDS:g} seconds a load: a first look")
    add("--seconds", type=float, help=f"how long each load runs (default: {SECONDS:g})")
    add(
        "--only",
        action="append",
        metavar="LOAD[:N]",
        help="run only these, with N in flight: plain, stream, paced, stored, stored-plain, kept, "
        "steady or steady-stored",
    )
    add(
        "--responses",
        action="store_true",
        help="measure responses instead: beside chats, with tools, many in the background",
    )
    add("--inference", default="1", metavar="N", help="how many inference workers")


async def main(args: argparse.Namespace) -> int:
    """Run every load and print what it gave; 1 if a request failed or a token was lost."""
    seconds = args.seconds or (QUICK_SECONDS if args.quick else SECONDS)
    if args.responses:
        return await measure_responses(args, seconds)
    chosen = choose(args.only)
    load_before = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(running_upstream())
        _say("starting the server")
        try:
            arguments = ("--upstream", upstream, "--inference", args.inference)
            server = await asyncio.to_thread(stack.enter_context, launched(*arguments))
            key = await asyncio.to_thread(server.create_key)
        except NotReady as error:
            raise Exit(str(error)) from None
        rows = [await measure(one, server, upstream, key, seconds) for one in chosen]
    found = report.to_report(rows, load_before)
    if args.json:
        _print_json(found)
    else:
        report.print_report(found, sys.stdout)
    return int(any(row.server.failed or row.server.lost or row.server.doubled for row in rows))


async def measure_responses(args: argparse.Namespace, seconds: float) -> int:
    """Measure responses and print what they took; 1 if one failed."""
    if args.only or args.inference != "1":
        raise BadSetup("--responses goes with --seconds, --quick and --json only")
    _say("responses")
    try:
        found = await responses.measure(seconds)
    except NotReady as error:
        raise Exit(str(error)) from None
    if args.json:
        _print_json(found)
    else:
        responses.print_figures(found, sys.stdout)
    return int(found.failed)


def _print_json(found: msgspec.Struct) -> None:
    print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())


def choose(only: list[str] | None) -> list[Scenario]:
    """Find the scenarios that are asked for. Raises Exit if there are none."""
    if not only:
        return list(SCENARIOS)
    wanted = {tuple(text.partition(":")[::2]) for text in only}
    chosen = [
        one
        for one in SCENARIOS
        if (one.name, "") in wanted or (one.name, str(one.in_flight)) in wanted
    ]
    if not chosen:
        names = ", ".join(f"{one.name}:{one.in_flight}" for one in SCENARIOS)
        raise Exit(f"there is no such load: {names}")
    return chosen


async def measure(
    scenario: Scenario, server: LaunchedServer, upstream: str, key: str, seconds: float
) -> Row:
    """Run one load straight on the upstream, then through the server, each warmed up."""
    _say(f"{scenario.name}, {scenario.in_flight} in flight")
    await run(scenario.plan(upstream, key, WARM_UP_SECONDS))
    straight = to_measures(await run(scenario.plan(upstream, key, min(seconds, 4.0))))
    made: list[str] = []
    if scenario.conversations:
        made = await asyncio.to_thread(create_conversations, server.url, key, scenario)
    await run(scenario.plan(server.url, key, WARM_UP_SECONDS, made))
    before = cpu.read(server.processes(), server.pid)
    through = to_measures(await run(scenario.plan(server.url, key, seconds, made)))
    used = cpu.between(before, cpu.read(server.processes(), server.pid))
    return to_row(scenario, through, straight, used)


def create_conversations(url: str, key: str, scenario: Scenario) -> list[str]:
    """Make the conversations that a load chats in."""
    said = [{"type": "message", **message} for message in scenario.history]
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{url}/conversations",
        msgspec.json.encode({"items": said}),
        {"authorization": f"Bearer {key}", "content-type": "application/json"},
    )

    def create(_number: int) -> str:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return str(msgspec.json.decode(answer.read())["id"])

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(create, range(scenario.conversations)))


@contextlib.contextmanager
def running_upstream() -> Iterator[str]:
    """Run the upstream in a process of its own; gives its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.measure.upstream"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment({}),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.stdin.close()  # it ends when nobody holds its standard input
        process.stdout.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)
