"""Imports: what an export has written, checked whole before anything of it is stored."""

import itertools
from collections.abc import Iterator, Sequence
from math import inf
from typing import Final

import msgspec

from edge.orders import Caller
from edge.requests import step_of
from edge.stored import Stored
from schemas import writes
from schemas.api.conversations import (
    MAIN,
    ConversationExport,
    ExportedBranch,
    ExportedItem,
    decode_export,
)
from schemas.api.items import to_item
from schemas.commands import encode
from schemas.errors import InvalidRequest, JanError

_NOUN: Final = "conversations"
_MOST: Final = 1000  # conversations of one request
_ITEMS_AT_ONCE: Final = 200
_BYTES_AT_ONCE: Final = 4 << 20  # with one item at least: a message of the bus holds it

_decode_any = msgspec.json.Decoder(msgspec.Raw).decode


def read_import(body: bytes) -> list[writes.ImportConversation]:
    """Read one export, or one a line. Raises InvalidRequest naming the line and the field."""
    lines = _split(body)
    if lines is None:
        return [_to_import(decode_export(body))]
    if len(lines) > _MOST:
        raise InvalidRequest(f"more than {_MOST} conversations in one request")
    return [_read_line(number, line) for number, line in lines]


async def carry_out(
    stored: Stored, caller: Caller, conversations: Sequence[writes.ImportConversation]
) -> list[msgspec.Raw]:
    """Make the conversations, in their order; return them as they are served.

    A conversation is made whole or taken back; those before it stay. With an Idempotency-Key a
    repeat makes what is missing.
    """
    steps = itertools.count()
    made = []
    for conversation in conversations:
        first, *rest = _chunks(conversation.items)
        begin = msgspec.structs.replace(conversation, items=first)
        told = await stored.command(_NOUN, "import", step_of(caller, next(steps)), begin)
        made.append(msgspec.Raw(told))
        if rest:
            await _go_on(stored, caller, told, rest, steps)
    return made


async def _go_on(
    stored: Stored,
    caller: Caller,
    begun: bytes,
    rest: Sequence[list[writes.ImportedItem]],
    steps: Iterator[int],
) -> None:
    conversation = msgspec.json.decode(begun, type=_Begun).id
    try:
        for chunk in rest:
            body = writes.ImportItems(conversation, chunk)
            await stored.command(_NOUN, "import_items", step_of(caller, next(steps)), body)
    except JanError:
        if caller.idempotency_key is None:
            await _take_back(stored, caller, conversation)
        raise


async def _take_back(stored: Stored, caller: Caller, conversation: str) -> None:
    try:
        await stored.command(_NOUN, "delete", caller, writes.DeleteConversation(conversation))
    except JanError:
        return  # what failed before fails again: half of it stays, and can be deleted by hand


class _Begun(msgspec.Struct):
    id: str


def _split(body: bytes) -> list[tuple[int, bytes]] | None:
    """The lines of a body, numbered; None if it is one object over several lines."""
    lines = [(n, line) for n, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    if len(lines) < 2:
        return None
    try:
        _decode_any(lines[0][1])
    except (msgspec.DecodeError, ValueError):
        return None
    return lines


def _read_line(number: int, line: bytes) -> writes.ImportConversation:
    try:
        return _to_import(decode_export(line))
    except InvalidRequest as error:
        raise InvalidRequest(
            f"line {number}: {error.message}", param=error.param, code=error.wire_code
        ) from None


def _to_import(told: ConversationExport) -> writes.ImportConversation:
    head = told.conversation
    ends = _read_ends(told.branches)
    if MAIN not in ends or not any(branch.name == MAIN for branch in told.branches):
        raise InvalidRequest(f"'branches' has no {MAIN}", param="branches")
    if not any(branch.name == head.active_branch for branch in told.branches):
        raise _refused("conversation.active_branch", "there is no such branch")
    items = []
    last = -1
    for index, entry in enumerate(told.items):
        items.append(_to_imported(entry, f"items[{index}]", last, ends))
        last = entry.position
    return writes.ImportConversation(
        title=head.title,
        title_locked=head.title_locked,
        metadata=head.metadata or {},
        referrer=head.referrer,
        active_branch=head.active_branch,
        next_position=last + 1,
        branches=[
            writes.ImportedBranch(
                branch.name, branch.segments, branch.description, branch.parent_branch
            )
            for branch in told.branches
        ],
        items=items,
    )


def _read_ends(branches: Sequence[ExportedBranch]) -> dict[str, float]:
    """Up to which position the items of each branch are in use. Raises InvalidRequest."""
    ends: dict[str, float] = {}
    names: set[str] = set()
    for index, branch in enumerate(branches):
        param = f"branches[{index}]"
        if branch.name in names:
            raise _refused(f"{param}.name", "another branch has this name")
        names.add(branch.name)
        _check_segments(branch, f"{param}.segments")
        for name, upto in branch.segments:
            ends[name] = max(ends.get(name, -1), inf if upto is None else upto)
    return ends


def _check_segments(branch: ExportedBranch, param: str) -> None:
    *shared, own = branch.segments
    if own != (branch.name, None):
        raise _refused(param, "the last segment is the branch's own, up to null")
    last = -1
    seen = {branch.name}
    for name, upto in shared:
        if upto is None or upto <= last or name in seen:
            raise _refused(param, "segments are of different branches, each ending after the last")
        last = upto
        seen.add(name)


def _to_imported(
    entry: ExportedItem, param: str, last: int, ends: dict[str, float]
) -> writes.ImportedItem:
    if entry.position <= last:
        raise _refused(f"{param}.position", "it is not after that of the item before")
    if entry.position > ends.get(entry.branch, -1):
        raise _refused(f"{param}.branch", "no branch has this item")
    item = to_item(entry.item, f"{param}.item")
    given = msgspec.json.decode(entry.item)
    given.pop("id", None)
    # What says the same is kept as it was written, down to the order of its fields.
    kept = given if given == item else item
    return writes.ImportedItem(entry.branch, entry.position, msgspec.Raw(encode(kept)))


def _refused(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}': {why}", param=param)


def _chunks(items: Sequence[writes.ImportedItem]) -> list[list[writes.ImportedItem]]:
    """Pieces of the items that one message can carry; at least one, which may be empty."""
    chunks: list[list[writes.ImportedItem]] = [[]]
    size = 0
    for item in items:
        size += len(bytes(item.item))
        if chunks[-1] and (len(chunks[-1]) == _ITEMS_AT_ONCE or size > _BYTES_AT_ONCE):
            chunks.append([])
            size = len(bytes(item.item))
        chunks[-1].append(item)
    return chunks
