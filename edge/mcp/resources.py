"""Resources: the caller's conversations, as Markdown."""

from typing import Final

import mcp_types as types
import msgspec

from edge import exports
from edge.generation import to_caller
from edge.mcp.errors import Context, missing_resource, scope_of
from edge.requests import read_query
from edge.state import state_of
from schemas.api.lists import Paging
from schemas.errors import NotFound
from schemas.queries.conversations import AskConversations

MAX_BYTES: Final = 4 << 20  # of a conversation that is read

_CONVERSATIONS: Final = "jan://conversations/"
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
    return types.ListResourceTemplatesResult(resource_templates=[template])


async def read_resource(
    context: Context, params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    """One conversation of the caller's: its active branch."""
    uri = params.uri
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
