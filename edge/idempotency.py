"""Idempotency-Key: which run answers a key, and what a run's stored result looks like again."""

import hashlib
from typing import Any

import msgspec

from bus.buckets import Bucket
from schemas import frames
from schemas.commands import Kind
from schemas.errors import Conflict, IdempotencyConflict, InvalidRequest, JanError
from schemas.queries.runs import RunResult
from schemas.responses.story import Ended, encode_entry

MAX_KEY = 255  # characters: what Stripe and others allow


class Entry(msgspec.Struct, frozen=True):
    """What a key stands for: a run, and all that is needed to publish its very job again."""

    run_id: str
    edge: str  # whose name is in the frames' subject
    body_hash: str
    created: int
    deadline: float


_decode_entry = msgspec.json.Decoder(Entry).decode


class Keys:
    """The bucket of Idempotency-Keys."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def claim(self, name: str, entry: Entry) -> tuple[Entry, int]:
        """Take a key for a run, or learn which run has it; also the entry's revision.

        Raises IdempotencyConflict if the key was used with another body.
        """
        value = msgspec.json.encode(entry)
        while True:
            try:
                return entry, await self._bucket.create(name, value)
            except Conflict:
                there = await self._bucket.get(name)
            if there is None:
                continue  # it has expired just now
            found = _decode_entry(there.value)
            if found.body_hash != entry.body_hash:
                raise IdempotencyConflict(
                    "this Idempotency-Key was used with another request",
                    param="Idempotency-Key",
                )
            return found, there.revision

    async def replace(self, name: str, entry: Entry, revision: int) -> bool:
        """Give a key to another run; False if somebody else was faster."""
        try:
            await self._bucket.update(name, msgspec.json.encode(entry), revision)
        except Conflict:
            return False
        return True

    async def release(self, name: str, run_id: str) -> None:
        """Free a key whose run was given up, so that a repeat starts anew."""
        there = await self._bucket.get(name)
        if there is not None and _decode_entry(there.value).run_id == run_id:
            await self._bucket.delete(name)


def key_name(principal: str, route: str, key: str) -> str:
    """Where a principal's key lies in the bucket. Raises InvalidRequest if it is too long."""
    if not key or len(key) > MAX_KEY:
        raise InvalidRequest(
            f"an Idempotency-Key has 1 to {MAX_KEY} characters", param="Idempotency-Key"
        )
    return hashlib.sha256(f"{principal}\0{route}\0{key}".encode()).hexdigest()


def body_hash(body: bytes, stream: bool) -> str:
    """What makes two requests under one key the same: the bytes, and whether they are streamed."""
    return hashlib.sha256(b"%d" % stream + body).hexdigest()


def to_messages(
    finished: RunResult, kind: Kind, *, stream: bool, include_usage: bool
) -> list[bytes]:
    """Turn a stored result into the messages that TOKENS would hold, for a reader to fold."""
    fence = frames.encode(frames.FENCE)
    trailer = frames.encode_trailer(frames.Commit(status=finished.status))
    if finished.error is not None:
        error = bytes(finished.error)
        return [fence, _commit([error], trailer, frames.ERROR, _status_of(error))]
    if finished.result is None:
        return []
    result = bytes(finished.result)
    if kind == "response":
        return [fence, _commit([encode_entry(Ended(finished.result))], trailer)]
    if not stream or kind == "embedding":
        data = frames.encode(
            frames.DATA, epoch=1, count=1, data=result, flags=_RESULT, trailer=trailer
        )
        return [fence, data]
    chunks = _to_chunks(msgspec.json.decode(result), include_usage)
    return [fence, _commit([*chunks, b"[DONE]"], trailer)]


_RESULT = frames.RESULT | frames.COMMIT


def _commit(chunks: list[bytes], trailer: bytes, flags: int = 0, status: int = 0) -> bytes:
    return frames.encode(
        frames.DATA,
        epoch=1,
        count=len(chunks),
        data=b"".join([frames.sse(index, chunk) for index, chunk in enumerate(chunks)]),
        flags=flags | frames.COMMIT,
        status=status,
        trailer=trailer,
    )


def _to_chunks(body: dict[str, Any], include_usage: bool) -> list[bytes]:
    """Put a whole result into one chunk, and its usage into another if that was asked for."""
    usage = body.pop("usage", None)
    if body["object"] == "chat.completion":
        body["object"] = "chat.completion.chunk"
        body["choices"] = [_to_delta(choice) for choice in body["choices"]]
    if not include_usage:
        return [msgspec.json.encode(body)]
    with_usage = {**body, "choices": [], "usage": usage}
    return [msgspec.json.encode({**body, "usage": None}), msgspec.json.encode(with_usage)]


def _to_delta(choice: dict[str, Any]) -> dict[str, Any]:
    delta = dict(choice["message"])
    if delta.get("tool_calls"):
        delta["tool_calls"] = [
            {"index": index, **call} for index, call in enumerate(delta["tool_calls"])
        ]
    rest = {name: value for name, value in choice.items() if name != "message"}
    return {"index": rest.pop("index"), "delta": delta, **rest}


def _status_of(envelope: bytes) -> int:
    """The HTTP status of a stored error: that of its class, else of its type."""
    error = msgspec.json.decode(envelope)["error"]
    by_code = {kind.code: kind.status for kind in _classes(JanError)}
    by_type = {"invalid_request_error": 400, "rate_limit_error": 429, "upstream_error": 502}
    return by_code.get(error.get("code")) or by_type.get(error.get("type"), 500)


def _classes(root: type[JanError]) -> list[type[JanError]]:
    below = [kind for child in root.__subclasses__() for kind in _classes(child)]
    return [root, *below] if root.code else below
