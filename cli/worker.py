"""`jan worker KIND`: one worker, of the supervisor's, or joined to a running server."""

import argparse
import gc
import os
from collections.abc import Awaitable, Callable

from cli.exits import BadSetup
from cli.member import Member, add_member_arguments, build_settings

HELP = "run one worker (jan worker inference, jan worker responses, …)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("kind", choices=sorted(WORKERS))
    add_member_arguments(parser)


async def main(args: argparse.Namespace) -> int:
    """Work until SIGTERM or SIGINT."""
    with Member(args.kind, args) as member:
        if member.state.record.providers:  # what the server that we join serves
            os.environ.setdefault("JAN_PROVIDERS", member.state.record.providers)
        await WORKERS[args.kind](member)
    gc.freeze()  # Python's last collection takes two seconds of the stop's five with torch loaded
    return 0


async def run_inference(member: Member) -> None:
    """Generate."""
    # Here, not above: a worker should not load the libraries of the others.
    from workers.inference.app import run  # noqa: PLC0415
    from workers.inference.settings import InferenceSettings  # noqa: PLC0415

    settings = build_settings(
        InferenceSettings,
        nats_url=member.state.nats_url("inference"),
        name=member.name,
        data=member.state.data.path,
    )
    await run(settings, on_ready=member.on_ready(), on_loading=member.on_loading)


async def run_responses(member: Member) -> None:
    """Carry responses out."""
    from workers.responses.app import run  # noqa: PLC0415
    from workers.responses.settings import ResponsesSettings  # noqa: PLC0415

    settings = build_settings(
        ResponsesSettings,
        nats_url=member.state.nats_url("responses"),
        name=member.name,
        data=member.state.data.path,
    )
    await run(settings, on_ready=member.on_ready())


async def run_tools(member: Member) -> None:
    """Run the server's own tools."""
    from workers.tools.app import run  # noqa: PLC0415
    from workers.tools.mcp.file import McpFileError  # noqa: PLC0415
    from workers.tools.settings import ToolsSettings  # noqa: PLC0415

    settings = build_settings(
        ToolsSettings,
        nats_url=member.state.nats_url("tools"),
        sealing_key=member.state.sealing_key,
        name=member.name,
        data=member.state.data.path,
    )
    try:
        await run(settings, on_ready=member.on_ready())
    except McpFileError as error:
        raise BadSetup(str(error)) from None


async def run_persistence(member: Member) -> None:
    """Keep the database."""
    from workers.persistence.app import run  # noqa: PLC0415
    from workers.persistence.settings import PersistenceSettings  # noqa: PLC0415

    settings = build_settings(
        PersistenceSettings,
        nats_url=member.state.nats_url("persistence"),
        database_url=member.state.database_url,
        name=member.name,
        data=member.state.data.path,
    )
    await run(settings, on_ready=member.on_ready())


WORKERS: dict[str, Callable[[Member], Awaitable[None]]] = {
    "inference": run_inference,
    "responses": run_responses,
    "tools": run_tools,
    "persistence": run_persistence,
}
