"""Shares: snapshots of what was said, which everybody may read who knows the slug.

A snapshot holds the messages of users and assistants, and of those only what is named here: no ids,
no metadata, no instructions, no calls of tools and what they gave.
"""

import secrets
import string
from typing import Any, Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import ids, writes
from schemas.api.conversations import Share, SharedMessage, ShareOptions, ShareRevoked, Snapshot
from schemas.commands import Command, encode
from schemas.errors import InvalidRequest, NotFound
from workers.persistence.changes import Effect, Row, find
from workers.persistence.commands.conversations import bury_share, lock
from workers.persistence.queries.conversations import is_in, read_segments
from workers.persistence.tables import conversation_items, shares

NOUN: Final = "share"
MAX_SNAPSHOT: Final = 6 << 20  # bytes: with its envelope one message of the bus
MAX_SHARES: Final = 100  # of a conversation, that are not revoked
_MAX_READ: Final = 32 << 20  # bytes of a conversation that are looked through for a snapshot
_BASE62: Final = string.digits + string.ascii_letters
_SLUG_LENGTH: Final = 22  # 131 bits
_SHARED_ROLES: Final = ("user", "assistant")


async def create(connection: AsyncConnection, command: Command, body: writes.CreateShare) -> Effect:
    """Share a conversation's branch, or one message, as it is now."""
    row = await lock(connection, command.principal, body.conversation, body.version)
    await _require_room(connection, row)
    branch = body.branch or row["active_branch"]
    found = await _read_messages(connection, row, branch)
    if body.scope == "item":
        found = await _around(connection, row, found, body)
    messages = [
        message
        for _, content in found
        if (message := _to_shared(msgspec.json.decode(content), images=body.include_images))
    ]
    if not messages:
        raise InvalidRequest("there is no message to share", param="scope")
    snapshot = encode(Snapshot(scope=_scope(body), items=messages))
    if len(snapshot) > MAX_SNAPSHOT:
        raise _too_large()
    share: Row = {
        "id": ids.new_id("shr_"),
        "principal": command.principal,
        "version": 1,
        "conversation_id": row["id"],
        "item_id": body.item if body.scope == "item" else None,
        "slug": "".join(secrets.choice(_BASE62) for _ in range(_SLUG_LENGTH)),
        "title": body.title if body.title is not None else row["title"],
        "snapshot": snapshot,
        "options": {
            "include_images": body.include_images,
            "include_context_messages": body.include_context_messages,
            "branch": branch,
        },
        "created_at": command.at,
        "revoked_at": None,
        "deleted_at": None,
    }
    return Effect(NOUN, "created", row["id"], {"shares": [share]}, encode(to_share(share)))


async def revoke(connection: AsyncConnection, command: Command, body: writes.RevokeShare) -> Effect:
    """Take a share back for good; its snapshot goes. To revoke it again changes nothing."""
    conditions = [shares.c.id == body.id, shares.c.principal == command.principal]
    if body.conversation is not None:
        conditions.append(shares.c.conversation_id == body.conversation)
    share = await find(connection, shares, *conditions, locked=True)
    if share is None:
        raise NotFound(f"there is no share {body.id}")
    changed = [bury_share(share, command.at)] if share["revoked_at"] is None else []
    answer = encode(ShareRevoked(id=share["id"]))
    return Effect(NOUN, "revoked", share["conversation_id"], {"shares": changed}, answer)


def to_share(share: Row) -> Share:
    """A share as its owner sees it."""
    return Share(
        id=share["id"],
        slug=share["slug"],
        share_url=f"/v1/public/shares/{share['slug']}",
        conversation_id=share["conversation_id"],
        scope="conversation" if share["item_id"] is None else "item",
        item_id=share["item_id"],
        title=share["title"],
        created_at=int(share["created_at"]),
        revoked_at=None if share["revoked_at"] is None else int(share["revoked_at"]),
        share_options=ShareOptions(**share["options"]),
    )


def _scope(body: writes.CreateShare) -> Any:
    return "item" if body.scope == "item" else "conversation"


async def _require_room(connection: AsyncConnection, row: Row) -> None:
    question = select(func.count()).where(
        shares.c.conversation_id == row["id"], shares.c.revoked_at.is_(None)
    )
    if (await connection.scalar(question) or 0) >= MAX_SHARES:
        raise InvalidRequest(f"a conversation has at most {MAX_SHARES} shares: revoke some first")


Messages = list[tuple[str, bytes]]  # ids and contents


async def _read_messages(connection: AsyncConnection, row: Row, branch: str) -> Messages:
    """What was said on a branch. Raises NotFound, InvalidRequest if it is too much."""
    segments = await read_segments(connection, row["id"], row["principal"], branch)
    table = conversation_items.c
    said = (
        table.conversation_id == row["id"],
        is_in(segments),
        table.type == "message",
        table.role.in_(_SHARED_ROLES),
        table.deleted_at.is_(None),
    )
    size = await connection.scalar(select(func.sum(func.octet_length(table.content))).where(*said))
    if (size or 0) > _MAX_READ:
        raise _too_large()
    question = select(table.id, table.content).where(*said).order_by(table.position)
    return [(found.id, found.content) for found in await connection.execute(question)]


async def _around(
    connection: AsyncConnection, row: Row, found: Messages, body: writes.CreateShare
) -> Messages:
    """One message, with the user's before it if that is wanted."""
    if body.item is None:
        raise InvalidRequest("'item_id' is required to share an item", param="item_id")
    places = {item_id: place for place, (item_id, _) in enumerate(found)}
    if body.item not in places:
        await _explain_missing(connection, row, body.item)
    place = places[body.item]
    first = place
    if body.include_context_messages:
        before = (n for n in range(place - 1, -1, -1) if _role(found[n][1]) == "user")
        first = next(before, place)
    return [*([found[first]] if first != place else []), found[place]]


async def _explain_missing(connection: AsyncConnection, row: Row, item_id: str) -> None:
    table = conversation_items.c
    item = await find(
        connection,
        conversation_items,
        table.id == item_id,
        table.conversation_id == row["id"],
    )
    if item is not None and (item["type"] != "message" or item["role"] not in _SHARED_ROLES):
        raise InvalidRequest("only messages of users and assistants are shared", param="item_id")
    raise NotFound(f"there is no item {item_id} on this branch", param="item_id")


class _Spoken(msgspec.Struct):
    role: str


_decode_spoken = msgspec.json.Decoder(_Spoken).decode


def _role(content: bytes) -> str:
    return _decode_spoken(content).role


def _to_shared(item: dict[str, Any], *, images: bool) -> SharedMessage | None:
    """What everybody may see of a message; None if there is nothing."""
    parts = [shared for part in item["content"] if (shared := _to_shared_part(part, images))]
    if not parts:
        return None
    return SharedMessage(role=item["role"], content=[msgspec.Raw(encode(part)) for part in parts])


def _to_shared_part(part: dict[str, Any], images: bool) -> dict[str, Any] | None:
    match part:
        case {"type": "input_text" | "output_text" as kind, "text": str(text)} if text:
            return {"type": kind, "text": text}
        case {"type": "refusal", "refusal": str(refusal)}:
            return {"type": "refusal", "refusal": refusal}
        case {"type": "input_image", "image_url": str(url)} if images:
            return {"type": "input_image", "image_url": url}
    return None


def _too_large() -> InvalidRequest:
    return InvalidRequest(
        f"the snapshot would be larger than {MAX_SNAPSHOT >> 20} MiB: share an item instead",
        param="scope",
        code="snapshot_too_large",
    )
