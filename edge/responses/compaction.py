"""Compaction: a long conversation becomes a summary that only this server can read."""

import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from schemas import ids
from schemas.api.items import Item
from schemas.errors import InvalidRequest, UpstreamError
from schemas.responses.usage import UsageSum
from schemas.sealing import SealError, seal, unseal

INSTRUCTION: Final = (
    "Write down what this conversation has come to, for somebody who goes on with it and has not "
    "read it: what was asked for, what was found out and decided, names, numbers and open points. "
    "Leave out nothing that the next answer may need. Write nothing else."
)
_BEFORE: Final = "What was said before, in short:\n\n"


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: msgspec.Raw = msgspec.Raw(b"null")


def to_words(items: Sequence[Item], key: str, param: str) -> list[Item]:
    """Put what compactions say in their places. Raises InvalidRequest naming the field."""
    return [
        _open(item, key, f"{param}[{at}]") if item["type"] == "compaction" else item
        for at, item in enumerate(items)
    ]


def to_compaction(body: bytes, run_id: str, items: Sequence[Item], key: str) -> dict[str, Any]:
    """The answer of a compaction: what the user said, and the summary that `body` has."""
    completion = msgspec.json.decode(body, type=_Completion)
    summary = completion.choices[0].message.content if completion.choices else None
    if not summary:
        raise UpstreamError("the model wrote no summary")
    usage = UsageSum()
    usage.add(completion.usage)
    kept = [item for item in items if item["type"] == "message" and item.get("role") == "user"]
    compacted = {
        "id": ids.derived_id("cmp_", run_id, 0),
        "type": "compaction",
        "encrypted_content": seal(key, summary),
    }
    return {
        "id": ids.public_id(run_id, "response"),
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": [*kept, compacted],
        "usage": usage.to_wire(),
    }


def _open(item: Item, key: str, param: str) -> Item:
    try:
        text = unseal(key, str(item.get("encrypted_content", "")))
    except SealError:
        raise InvalidRequest(
            f"'{param}.encrypted_content' is none that this server has made",
            param=f"{param}.encrypted_content",
        ) from None
    content = [{"type": "input_text", "text": _BEFORE + text}]
    return {"type": "message", "role": "developer", "status": "completed", "content": content}
