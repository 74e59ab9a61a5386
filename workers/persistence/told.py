"""What models are told of an item that does not say it: it lies beside the item, for models alone.

In memory it is the item's `told`.
"""

from schemas.api.items import Item
from schemas.commands import encode


def with_told(content: bytes, told: bytes | None) -> bytes:
    """An item's JSON as a model's context has it."""
    return content if told is None else b'%b,"told":%b}' % (content[:-1], told)


def to_stored(item: Item) -> tuple[bytes, bytes | None]:
    """An item as it is served, and what lies beside it."""
    told = item.get("told")
    shown = {name: value for name, value in item.items() if name != "told"}
    return encode(shown), None if told is None else encode(told)
