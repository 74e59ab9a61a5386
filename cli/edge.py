"""`jan edge`: one edge, of the supervisor's, or joined to a running server, or in an image."""

import argparse
from typing import Any

from cli.listen import refused
from cli.member import Member, add_member_arguments, build_settings

HELP = "run one edge (HTTP in, streams out)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_member_arguments(parser)
    parser.add_argument("--host", help="address to listen on (default: JAN_HOST, or 127.0.0.1)")
    parser.add_argument("--port", type=int, help="0: any free one (default: JAN_PORT, or 8080)")


async def main(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    # Here, not above: the other verbs need none of its libraries.
    from edge.server import serve  # noqa: PLC0415
    from edge.settings import EdgeSettings  # noqa: PLC0415

    with Member("edge", args) as member:
        state = member.state
        listen: dict[str, Any] = {"host": args.host, "port": args.port}
        settings = build_settings(
            EdgeSettings,
            nats_url=state.nats_url("edge"),
            api_key_secret=state.api_key_secret,
            sealing_key=state.sealing_key,
            name=member.name,
            data=state.data.path,
            **{key: value for key, value in listen.items() if value is not None},
        )
        try:
            await serve(settings, on_ready=member.on_ready())
        except OSError as error:
            if error.errno is None:
                raise
            raise refused(settings.host, settings.port, error) from None
    return 0
