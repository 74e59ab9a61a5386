"""`jan down`: stops the server of a data directory, and nothing else."""

import argparse

from cli.process import end
from cli.state import State, default_data, load

HELP = "stop the server"
SUPERVISOR_SECONDS = 10
LEFT_SECONDS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", default=default_data(), help="of which server")


async def main(args: argparse.Namespace) -> int:
    """Ask the supervisor to stop, and wait; what is left then is ended too."""
    state = load(args.data)
    if not state.running and not living(state):
        print(f"no server runs on {state.data.path}")
        return 0
    joined = [process.pid for process in state.processes if process.joined]
    end(joined, state.data.owns, LEFT_SECONDS)
    if state.running:
        end([state.record.supervisor], state.data.owns, SUPERVISOR_SECONDS)
    end(living(state), state.data.owns, LEFT_SECONDS)
    print(f"stopped the server on {state.data.path}")
    return 0


def living(state: State) -> list[int]:
    """The pids of the server's processes that live."""
    return [process.pid for process in state.processes if state.data.owns(process.pid)]
