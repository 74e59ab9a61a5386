"""This server's tools, and how to get into /mcp."""

from typing import Final

from edge.mcp.metadata import PATHS, WELL_KNOWN, ProtectedResource
from edge.openapi.operation import KNOWN, Operation, Parameter
from schemas.api.tools import AdminTool, AdminToolList, ServedTool, ServedToolList, UpdateTool

_TOOL: Final = Parameter("name", "path", "The tool's name.", {"type": "string"})
_WRITING: Final = (400, 401, 403, 404, 405, 409, 413, 429, 500, 503)

OPERATIONS: Final = (
    Operation(
        "/v1/mcp-tools", "get", "listTools", "The tools that can be called.", ServedToolList,
        errors=KNOWN, public=False,
    ),
    Operation(
        "/v1/mcp-tools/{name}", "get", "retrieveTool", "One of them.", ServedTool,
        parameters=(_TOOL,), errors=KNOWN, public=False,
    ),
    Operation(
        "/v1/admin/tools", "get", "listAllTools",
        "All tools, also those that are off. Needs a key with the scope `admin`.",
        AdminToolList, errors=KNOWN, public=False,
    ),
    Operation(
        "/v1/admin/tools/{name}", "patch", "switchTool",
        "Switch a tool on or off, describe it, refuse words. Needs a key with the scope `admin`.",
        AdminTool, takes=UpdateTool, parameters=(_TOOL,), errors=_WRITING, public=False,
    ),
    *(
        Operation(
            WELL_KNOWN + path, "get", "describeResource" + path.replace("/", "_"),
            "How to get into what is at the path after it (RFC 9728).", ProtectedResource,
        )
        for path in ("", *PATHS)
    ),
)  # fmt: skip
