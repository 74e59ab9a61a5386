"""A tool that takes 200 ms and computes nothing: an MCP server over stdio, for the bench.

It is started by its path, so it imports nothing of ours.
"""

import asyncio

from mcp.server.mcpserver import MCPServer

SECONDS = 0.2


async def wait() -> str:
    """Wait a moment."""
    await asyncio.sleep(SECONDS)
    return "done"


if __name__ == "__main__":
    server = MCPServer("slow")
    server.tool()(wait)
    server.run("stdio")
