"""`mcp`: a tool of a remote MCP server that the request itself names, or the list of its tools."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from schemas.sealing import SealError, is_sealed, unseal
from schemas.tool_options import McpOptions, McpToolList
from schemas.tools import Tool
from workers.tools.mcp.answering import keep_blobs
from workers.tools.mcp.talk import LIST_TIMEOUT, Remote, call_tool, list_tools
from workers.tools.outcome import Answer, Failed
from workers.tools.tool import TIMEOUT, Context, ServerTool

_CALL_TIMEOUT: Final = 40.0  # seconds; before the call's own: so the server gets the blame


async def run(arguments: dict[str, Any], call: Context) -> Answer:
    """Ask the server that the options name."""
    options = _read_options(call)
    remote = _to_remote(options, call)
    backend = "mcp:" + _key(remote)
    if options.op == "list_tools":
        found = call.means.lists.find(backend)
        if found is None:
            with _guarded(remote, backend, call):
                found = await remote.use(list_tools, LIST_TIMEOUT)
            call.means.lists.keep(backend, found)
        names = ", ".join(tool.name for tool in found) or "none"
        return Answer(f"Tools: {names}", structured=McpToolList(options.server_label, found))
    with _guarded(remote, backend, call):
        said = await remote.use(
            lambda client: call_tool(client, options.name, arguments, call.progress),
            _CALL_TIMEOUT,
        )
    return await keep_blobs(said, call)


@contextmanager
def _guarded(remote: Remote, backend: str, call: Context) -> Iterator[None]:
    """Leave a server alone that keeps failing. Raises Failed."""
    try:
        with call.means.breakers.guard(backend, f"the MCP server {remote.label}"):
            yield
    except Failed as failed:
        if failed.code == "timeout":
            failed.retryable = False  # whoever waits for it has waited long enough
        raise


def _read_options(call: Context) -> McpOptions:
    if call.job.options is None:
        raise Failed("invalid_options", "The options must name an MCP server.")
    try:
        options = msgspec.json.decode(call.job.options, type=McpOptions)
    except msgspec.DecodeError as error:
        raise Failed(
            "invalid_options", f"The MCP server's options can't be used: {error}."
        ) from None
    name = options.name or call.job.tool
    return msgspec.structs.replace(options, name=name)


def _to_remote(options: McpOptions, call: Context) -> Remote:
    key = call.means.settings.sealing_key.get_secret_value()
    try:
        headers = {
            name: unseal(key, value) if is_sealed(value) else value
            for name, value in (options.headers or {}).items()
        }
        token = options.authorization or ""
        token = unseal(key, token) if is_sealed(token) else token
    except SealError as error:
        raise Failed("invalid_options", f"The credentials can't be used: {error}.") from None
    if token:
        headers["Authorization"] = f"Bearer {token}"
    for name, value in headers.items():
        if not (name + value).isascii() or not (name + value).isprintable():
            raise Failed("invalid_options", f"The header {name[:50]!r} can't be sent.")
    return Remote(options.server_label[:100], options.server_url, call.means.guard, headers)


def _key(remote: Remote) -> str:
    """One for each server and credentials: what one user's server does is no other's matter."""
    told = msgspec.json.encode([remote.url, sorted(remote.headers.items())])
    return hashlib.sha256(told).hexdigest()[:24]


TOOL = ServerTool(
    Tool(
        name="mcp",
        title="MCP",
        description="A tool of an MCP server that the request names.",
        parameters=msgspec.Raw(b'{"type":"object"}'),
        queue="mcp",
        timeout=TIMEOUT,
    ),
    read=lambda found: found,
    run=run,
    announced=False,  # its arguments are those of the server's tool
)
