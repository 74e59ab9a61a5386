"""Exports: conversations as JSON or Markdown, read page by page, sent on or put into the store."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import msgspec
import structlog

from bus import ObjectStore
from edge.stored import Stored
from schemas import ids
from schemas.api.conversations import Exported
from schemas.api.lists import Paging
from schemas.commands import encode
from schemas.errors import JanError, NotFound, Unavailable
from schemas.objects import EXPORTS, exports_of
from schemas.queries.conversations import AskConversation, AskConversations, AskExport, ExportPage

logger = structlog.get_logger()

_NOUN: Final = "conversations"
_PREFIX: Final = "exp_"
_PART: Final = 4 << 20  # bytes of an object; a little more with the piece that fills it
_LIST: Final = 100  # conversations that are listed at once
_EVERY: Final = 600.0  # seconds between looks for expired exports
KEPT: Final = 86_400  # seconds

_decode_page = msgspec.json.Decoder(ExportPage).decode


class Manifest(msgspec.Struct, frozen=True):
    """What is known of an export in the object store; its parts lie beside it."""

    principal: str
    parts: int
    told: Exported


class _Active(msgspec.Struct):
    active_branch: str


class _Listed(msgspec.Struct):
    data: list["_Id"]
    next_after: str | None


class _Id(msgspec.Struct):
    id: str


class _Entry(msgspec.Struct):
    item: dict[str, Any]


async def read_pages(
    stored: Stored, principal: str, conversation: str, *, branch: str | None = None
) -> AsyncIterator[ExportPage]:
    """Read a conversation as it is when the first page is. Raises NotFound, also later."""
    ask = AskExport(principal=principal, conversation=conversation, branch=branch)
    while True:
        page = _decode_page(await stored.ask(_NOUN, "export", ask))
        yield page
        if not page.has_more:
            return
        ask = msgspec.structs.replace(ask, after_position=page.last, upto=page.upto)


async def to_json(pages: AsyncIterator[ExportPage]) -> AsyncIterator[bytes]:
    """Write a conversation with all its branches as one line of JSON."""
    is_first = True
    async for page in pages:
        items = b",".join(map(bytes, page.items))
        if is_first:
            yield (
                b'{"object":"conversation.export","version":1,"conversation":%b,"branches":%b,'
                b'"items":[%b' % (page.conversation, page.branches, items)
            )
        elif items:
            yield b"," + items
        is_first = False
    yield b"]}\n"


async def read_active(stored: Stored, principal: str, conversation: str) -> str:
    """The name of a conversation's active branch. Raises NotFound."""
    told = await stored.ask(_NOUN, "get", AskConversation(principal=principal, id=conversation))
    return msgspec.json.decode(told, type=_Active).active_branch


async def to_markdown(pages: AsyncIterator[ExportPage]) -> AsyncIterator[bytes]:
    """Write what was said on a branch for people to read."""
    is_first = True
    async for page in pages:
        if is_first:
            title = " ".join((page.title or "Conversation").split())
            yield f"# {title}\n".encode()
        is_first = False
        for raw in page.items:
            told = _item_to_markdown(msgspec.json.decode(raw, type=_Entry).item)
            if told:
                yield f"\n{told}\n".encode()


async def to_json_lines(stored: Stored, principal: str) -> AsyncIterator[bytes]:
    """Write all conversations of a principal, oldest first, each as a line (or pieces of one)."""
    async for conversation in _list(stored, principal):
        begun = False
        try:
            async for piece in to_json(read_pages(stored, principal, conversation)):
                begun = True
                yield piece
        except NotFound:
            if begun:
                raise  # half a line can't be taken back
            # It was deleted since it was listed.


async def _list(stored: Stored, principal: str) -> AsyncIterator[str]:
    after = None
    while True:
        paging = Paging(limit=_LIST, order="asc", after=after)
        question = AskConversations(principal=principal, paging=paging)
        told = msgspec.json.decode(await stored.ask(_NOUN, "list", question), type=_Listed)
        for listed in told.data:
            yield listed.id
        after = told.next_after
        if after is None:
            return


async def store(objects: ObjectStore, stored: Stored, principal: str) -> Exported:
    """Put all conversations of a principal into the object store, a part at a time.

    It lies there for a day, or until something that may be in it is deleted.
    """
    export_id = ids.new_id(_PREFIX)
    now = int(time.time())
    part, parts, size, lines = bytearray(), 0, 0, 0
    async for piece in to_json_lines(stored, principal):
        part += piece
        lines += piece.endswith(b"\n")
        if len(part) >= _PART:
            await _put(objects, _part_key(principal, export_id, parts), bytes(part))
            size, parts = size + len(part), parts + 1
            part.clear()
    await _put(objects, _part_key(principal, export_id, parts), bytes(part))
    told = Exported(
        id=export_id,
        url=f"/v1/conversations/exports/{export_id}",
        conversations=lines,
        bytes=size + len(part),
        created_at=now,
        expires_at=now + KEPT,
    )
    await _put(objects, _key(principal, export_id), encode(Manifest(principal, parts + 1, told)))
    return told


async def find(objects: ObjectStore, principal: str, export_id: str) -> Manifest:
    """Find a principal's export. Raises NotFound, also when it has expired."""
    missing = NotFound(f"there is no export {export_id[:64]}")
    if not ids.is_unique_part(export_id.removeprefix(_PREFIX)):
        raise missing
    try:
        data = await _get(objects, _key(principal, _PREFIX + export_id.removeprefix(_PREFIX)))
    except NotFound:
        raise missing from None
    manifest = msgspec.json.decode(data, type=Manifest)
    if manifest.principal != principal or manifest.told.expires_at <= time.time():
        raise missing
    return manifest


async def read_parts(objects: ObjectStore, manifest: Manifest) -> AsyncIterator[bytes]:
    """Read an export from the object store."""
    for number in range(manifest.parts):
        yield await _get(objects, _part_key(manifest.principal, manifest.told.id, number))


@asynccontextmanager
async def expiring(objects: ObjectStore) -> AsyncIterator[None]:
    """Keep removing old exports for the context's life."""
    task = asyncio.create_task(_expire(objects))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _expire(objects: ObjectStore) -> None:
    while True:
        try:
            await objects.expire(EXPORTS, time.time() - KEPT)
        except (JanError, OSError) as error:
            logger.warning("old exports stay in the object store", error=str(error))
        await asyncio.sleep(_EVERY)


async def _put(objects: ObjectStore, key: str, data: bytes) -> None:
    try:
        await objects.put(key, data)
    except OSError as error:
        raise Unavailable("the object store failed", retry_after=5) from error


async def _get(objects: ObjectStore, key: str) -> bytes:
    try:
        return await objects.get(key)
    except OSError as error:
        raise Unavailable("the object store failed", retry_after=5) from error


def _key(principal: str, export_id: str) -> str:
    return f"{EXPORTS}/{exports_of(principal)}{export_id}"


def _part_key(principal: str, export_id: str, number: int) -> str:
    return f"{_key(principal, export_id)}.{number}"


def _item_to_markdown(item: dict[str, Any]) -> str:
    match item.get("type"):
        case "message":
            parts = [_part_to_markdown(part) for part in item["content"]]
            return f"## {str(item['role']).capitalize()}\n\n" + "\n\n".join(parts)
        case "function_call":
            return f"**Call of `{item['name']}`**\n\n" + _fenced(str(item["arguments"]))
        case "function_call_output":
            output = item["output"]
            text = output if isinstance(output, str) else _texts(output)
            return "**Output of the call**\n\n" + _fenced(text)
        case "reasoning":
            text = _texts([*(item.get("summary") or []), *(item.get("content") or [])])
            return "\n".join("> " + line for line in text.splitlines())
        case other:
            return f"*{other}*"


def _part_to_markdown(part: dict[str, Any]) -> str:
    match part:
        case {"text": str(text)}:
            return text
        case {"refusal": str(refusal)}:
            return refusal
        case {"image_url": str(url)} if url.startswith(("http://", "https://")):
            return f"![image](<{url}>)"
    return f"*({part['type'].removeprefix('input_')})*"


def _texts(parts: list[dict[str, Any]]) -> str:
    return "\n\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def _fenced(text: str) -> str:
    """A block of code, with a fence that the text does not have."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
