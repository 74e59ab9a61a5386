"""A tools worker as a process of its own, which a test may kill: `python -m … URL NAME FILE`.

Its tools `twice` (idempotent) and `once` (not) write a line into the file each time they run, and
wait until there is a file beside it that lets them end.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from pydantic import SecretStr

from bus import open_bus
from tests.support.nats import NatsServer
from tests.support.tools import Said, scripted
from workers.runtime import create_registry
from workers.tools.app import open_tools
from workers.tools.builtin import TOOLS
from workers.tools.outcome import Answer
from workers.tools.settings import ToolsSettings
from workers.tools.tool import Context


async def serve(url: str, name: str, file: Path) -> None:
    """Work until killed."""

    async def run(said: Said, call: Context) -> Answer:
        with file.open("a") as lines:
            lines.write(f"{call.job.tool} {said.text or name}\n")
        while not file.with_suffix(".go").exists():  # noqa: ASYNC110 - a test makes it
            await asyncio.sleep(0.02)
        return Answer(name)

    tools = TOOLS | {
        "twice": scripted(run, name="twice"),
        "once": scripted(run, name="once", idempotent=False),
    }
    settings = ToolsSettings(
        nats_url=SecretStr(url),
        name=name,
        data=file.parent,
        tools_queues=["mcp", "python_exec"],
        _env_file=None,
    )
    async with (
        open_bus(url, name=name) as bus,
        open_tools(settings, bus, create_registry(), tools),
    ):
        print("ready", flush=True)
        await asyncio.Event().wait()


@contextmanager
def tools_process(server: NatsServer, name: str, file: Path) -> Iterator["Popen[str]"]:
    """Start one, and return when it works; it is killed at the end if a test has not."""
    argv = [sys.executable, "-m", __name__, server.url("tools"), name, str(file)]
    with Popen(argv, stdout=-1, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            while process.stdout.readline().strip() != "ready":
                assert process.poll() is None
            yield process
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
