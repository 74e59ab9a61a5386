"""An MCP server as a process of its own, by the SDK: `python -m … PORT`, or `stdio`."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen

from mcp.server.mcpserver import Context, Image, MCPServer

from tests.support.ports import free_ports

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.support.mcp_server"]


def make() -> MCPServer:
    """Make the server."""
    server = MCPServer("test")

    @server.tool(title="Add two numbers")
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool()
    async def slow(steps: int, ctx: Context) -> str:
        """Take a while, and tell of it."""
        for step in range(steps):
            await ctx.report_progress(step, steps, "at it")
            await asyncio.sleep(0.3)
        return "done"

    @server.tool()
    def picture() -> Image:
        """Draw."""
        return Image(data=b"\x89PNG fake", format="png")

    @server.tool()
    def fail() -> str:
        """Fail."""
        raise ValueError("this can't be done")

    @server.tool(name="odd/name with spaces")
    def odd() -> str:
        """Have a name that no function can have."""
        return "odd"

    @server.tool()
    def variables() -> str:
        """Say which variables there are."""
        return " ".join(sorted(os.environ))

    counts: dict[str, int] = {}

    @server.tool()
    def count(key: str) -> int:
        """Have an effect: count how often this was called with a key."""
        counts[key] = counts.get(key, 0) + 1
        return counts[key]

    @server.tool()
    def counted() -> dict[str, int]:
        """Say how often `count` was called with each key."""
        return counts

    @server.tool()
    def end() -> str:
        """End the process."""
        os._exit(3)

    return server


@contextmanager
def running_mcp() -> Iterator[str]:
    """Run one over HTTP; yields its URL, once it answers."""
    (port,) = free_ports(1)
    with Popen([*COMMAND, str(port)], cwd=ROOT, stdout=DEVNULL, stderr=DEVNULL) as process:
        try:
            until_listening(port, process)
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


def until_listening(port: int, process: "Popen[bytes]") -> None:
    """Wait until somebody listens on a port."""
    for _ in range(400):
        assert process.poll() is None, "the server has ended"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError("the server does not listen")


if __name__ == "__main__":
    made = make()
    if sys.argv[1] == "stdio":
        made.run("stdio")
    else:
        made.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
