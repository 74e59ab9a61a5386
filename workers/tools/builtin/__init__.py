"""The tools that come with the server, by name."""

from workers.tools.builtin import (
    file_search_index,
    file_search_query,
    mcp,
    python_exec,
    web_fetch,
    web_search,
)
from workers.tools.tool import ServerTool

TOOLS: dict[str, ServerTool] = {
    "web_search": web_search.TOOL,
    "web_fetch": web_fetch.TOOL,
    "python_exec": python_exec.TOOL,
    "file_search_index": file_search_index.TOOL,
    "file_search_query": file_search_query.TOOL,
    "mcp": mcp.TOOL,
}
