"""Resources: the caller's conversations, as Markdown, and files that tools made for the caller."""

import base64
import re
from typing import Final

import mcp_types as types
import msgspec

from edge import exports
from edge.artifacts import read_artifact
from edge.generation import to_caller
from edge.mcp.errors import Context, missing_resource, scope_of
from edge.requests import read_query
from edge.state import state_of
from schemas.api.lists import Paging
from schemas.errors import InvalidRequest, NotFound
from schemas.queries.conversations import AskConversations
from schemas.tools import Artifact

MAX_BYTES: Final = 4 << 20  # of a resource that is read

_CONVERSATIONS: Final = "jan://conversations/"
_FILE: Final = re.compile(r"jan://containers/([^/]{1,100})/files/([^/]{1,100})")
_MARKDOWN: Final = "text/markdown"
_PAGE: Final = 50
_LONGEST_ID: Final = 100
_CUT: Final = b"\n*The rest is left out here.*\n"


class _Conversation(msgspec.Struct):
    id: str
    title: str | None


class _Page(msgspec.Struct):
    data: list[_Conversation]
    next_after: str | None


async def list_resources(
    context: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourcesResult:
    """The caller's conversations, newest first."""
    scope = scope_of(context)
    question = AskConversations(
        principal=to_caller(scope).principal, paging=read_cursor(params, _PAGE)
    )
    told = await state_of(scope)["stored"].ask("conversations", "list", question)
    page = msgspec.json.decode(told, type=_Page)
    return types.ListResourcesResult(
        resources=[_to_resource(one) for one in page.data], next_cursor=page.next_after
    )


async def list_templates(
    _context: Context, _params: types.PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    """What a resource's address looks like."""
    template = types.ResourceTemplate(
        name="conversation",
        title="A conversation",
        uri_template=_CONVERSATIONS + "{id}",
        description="What was said on the active branch of one of your conversations.",
        mime_type=_MARKDOWN,
    )
    file = types.ResourceTemplate(
        name="file",
        title="A file that a tool made",
        uri_template="jan://containers/{container_id}/files/{file_id}",
        description="What a tool's result links to; it is kept for a month.",
    )
    return types.ListResourceTemplatesResult(resource_templates=[template, file])


async def read_resource(
    context: Context, params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    """One conversation of the caller's, its active branch, or one file."""
    uri = params.uri
    file = _FILE.fullmatch(uri)
    if file is not None:
        return await _read_file(context, uri, file[1], file[2])
    conversation = uri.removeprefix(_CONVERSATIONS)
    is_id = 0 < len(conversation) <= _LONGEST_ID and conversation.isprintable()
    if conversation == uri or not is_id:
        raise missing_resource(context, uri)
    try:
        text = await _read(context, conversation)
    except NotFound:
        raise missing_resource(context, uri) from None
    contents = types.TextResourceContents(uri=uri, mime_type=_MARKDOWN, text=text)
    return types.ReadResourceResult(contents=[contents])


def read_cursor(params: types.PaginatedRequestParams | None, limit: int) -> Paging:
    """The part of a list that a cursor leads to: the id of the last one before it."""
    cursor = params.cursor if params is not None else None
    return read_query({"limit": limit, "after": cursor}, Paging)


def to_link(made: Artifact) -> types.ResourceLink:
    """Where a file of a tool's result is read."""
    return types.ResourceLink(
        uri=f"jan://containers/{made.container}/files/{made.id}",
        name=made.name,
        mime_type=made.media_type,
        size=made.bytes,
    )


async def _read_file(
    context: Context, uri: str, container: str, file_id: str
) -> types.ReadResourceResult:
    """A file, as text if it is one. Raises MCPError, InvalidRequest if it is too large."""
    scope = scope_of(context)
    objects, principal = state_of(scope)["objects"], to_caller(scope).principal
    try:
        data = await read_artifact(objects, principal, container, file_id)
    except NotFound:
        raise missing_resource(context, uri) from None
    if len(data) > MAX_BYTES:
        path = f"/v1/containers/{container}/files/{file_id}/content"
        raise InvalidRequest(
            f"'params.uri': the file has more than {MAX_BYTES} bytes: GET {path} has it",
            param="params.uri",
            code="too_large",
        )
    return types.ReadResourceResult(contents=[_to_contents(uri, data)])


def _to_contents(uri: str, data: bytes) -> types.TextResourceContents | types.BlobResourceContents:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return types.BlobResourceContents(uri=uri, blob=base64.b64encode(data).decode())
    return types.TextResourceContents(uri=uri, mime_type="text/plain", text=text)


async def _read(context: Context, conversation: str) -> str:
    scope = scope_of(context)
    stored, principal = state_of(scope)["stored"], to_caller(scope).principal
    branch = await exports.read_active(stored, principal, conversation)
    pages = exports.read_pages(stored, principal, conversation, branch=branch)
    text = bytearray()
    async for piece in exports.to_markdown(pages):
        if len(text) + len(piece) > MAX_BYTES:
            text += _CUT
            break
        text += piece
    return text.decode()


def _to_resource(found: _Conversation) -> types.Resource:
    return types.Resource(
        uri=_CONVERSATIONS + found.id,
        name=found.id,
        title=found.title,
        mime_type=_MARKDOWN,
    )
