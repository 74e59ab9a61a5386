"""Lists, as OpenAI has them: a page of objects, and where the next one begins."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

MAX_PAGE_BYTES = 6 << 20  # of a page: with its envelope one message of the bus; it ends early

Limit = Annotated[int, Meta(ge=1, le=100)]
Order = Literal["asc", "desc"]
Cursor = Annotated[str, Meta(min_length=1, max_length=128)]


class Paging(Struct, frozen=True, omit_defaults=True):
    """Which part of a list is asked for: `limit` objects after or before another one."""

    limit: Limit = 20
    order: Order = "desc"
    after: Cursor | None = None
    before: Cursor | None = None


def encode_page(ids: Sequence[str], objects: Sequence[bytes], *, has_more: bool) -> bytes:
    """Encode a page of objects that are JSON already; it ends early when it is too large."""
    size = kept = 0
    for data in objects:
        size += len(data)
        if kept and size > MAX_PAGE_BYTES:
            has_more = True
            break
        kept += 1
    first, last = (ids[0], ids[kept - 1]) if kept else (None, None)
    head = {
        "first_id": first,
        "last_id": last,
        "has_more": has_more,
        "next_after": last if has_more else None,
    }
    tail = msgspec.json.encode(head)
    return b'{"object":"list","data":[%b],%b' % (b",".join(objects[:kept]), tail[1:])
