"""The tools that come with the server, by name."""

from workers.tools.tool import ServerTool

TOOLS: dict[str, ServerTool] = {}
