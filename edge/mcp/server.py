"""The server as the SDK knows it: what it can do, and who does it."""

from functools import partial
from typing import Any, Final

from mcp.server.caching import CacheHint
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from bus import ToolCatalogue
from edge.mcp import prompts, resources, tools
from edge.mcp.errors import in_protocol
from edge.openapi.document import VERSION

MAX_BODY: Final = 4 << 20

_INSTRUCTIONS: Final = (
    "Tools of this Jan Server, the caller's conversations as resources, and the caller's prompt "
    "templates as prompts."
)
_TOOLS_KEPT: Final = 10_000  # ms that a client may rely on the list: a switch works soon
_SELF_KEPT: Final = 300_000


def create_manager(catalogue: ToolCatalogue) -> StreamableHTTPSessionManager:
    """Build what answers requests; a request's state has all that they use.

    Host and Origin are checked by Guard, which knows hosts that are not listed.
    """
    server: Server[Any] = Server(
        "jan-server",
        version=VERSION,
        title="Jan Server",
        instructions=_INSTRUCTIONS,
        cache_hints={
            "server/discover": CacheHint(_SELF_KEPT, "public"),
            "tools/list": CacheHint(_TOOLS_KEPT, "public"),
            "resources/templates/list": CacheHint(_SELF_KEPT, "public"),
        },
        get_tool_input_schema=partial(tools.input_schema_of, catalogue),
        on_list_tools=in_protocol(tools.list_tools),
        on_call_tool=in_protocol(tools.call_tool),
        on_list_resources=in_protocol(resources.list_resources),
        on_list_resource_templates=in_protocol(resources.list_templates),
        on_read_resource=in_protocol(resources.read_resource),
        on_list_prompts=in_protocol(prompts.list_prompts),
        on_get_prompt=in_protocol(prompts.get_prompt),
    )
    return StreamableHTTPSessionManager(server, stateless=True, max_request_body_size=MAX_BODY + 1)
