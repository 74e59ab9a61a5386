"""`jan down`: stops the server of a data directory, and nothing else."""

import argparse
import contextlib

import psutil

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
    end([process.pid for process in state.processes if process.joined], state, LEFT_SECONDS)
    if state.running:
        end([state.record.supervisor], state, SUPERVISOR_SECONDS)
    end(living(state), state, LEFT_SECONDS)
    print(f"stopped the server on {state.data.path}")
    return 0


def living(state: State) -> list[int]:
    """The pids of the server's processes that live."""
    return [process.pid for process in state.processes if state.data.owns(process.pid)]


def end(pids: list[int], state: State, timeout: float) -> None:
    """End processes of this server: ask, wait, then kill."""
    victims = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if state.data.owns(pid):
                process.terminate()
                victims.append(process)
    _, alive = psutil.wait_procs(victims, timeout=timeout)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            if state.data.owns(process.pid):
                process.kill()
    psutil.wait_procs(alive, timeout=timeout)
