"""What an upstream's error answer means: whose fault it is, and whether another may do better."""

import email.utils
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from schemas.errors import (
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)

_REJECTIONS = (400, 404, 409, 413, 422)  # the client's request is at fault
_MESSAGE_LIMIT = 2000


class Redactor:
    """Keeps a provider's secrets out of texts, also where the provider repeats them."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = [secret for secret in secrets if len(secret) >= 4]

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text[:_MESSAGE_LIMIT]


def to_error(
    status: int, headers: Mapping[bytes, bytes], body: bytes, redact: Redactor
) -> UpstreamError:
    """Turn an answer with an error status, or an error event with one, into what to raise."""
    found = _find_error(body)
    message = redact(str(found.get("message") or f"the provider answered with status {status}"))
    retry_after = parse_retry_after(headers)
    if status in _REJECTIONS:
        param, code = found.get("param"), found.get("code")
        return UpstreamRejected(
            message,
            status=status,
            param=redact(param) if isinstance(param, str) else None,
            code=redact(code) if isinstance(code, str) else None,
        )
    if status in (401, 403):  # our key, not the client's; the provider's text may quote it
        return UpstreamError(f"the provider refused the server's credentials ({status})")
    if status == 429:
        return UpstreamRateLimited(message, retry_after=retry_after)
    text = f"the provider failed ({status}): {message}" if found else message
    if status in (408, 504):
        return UpstreamTimeout(text, retry_after=retry_after)
    return UpstreamError(text, retry_after=retry_after)


def to_stream_error(error: bytes, redact: Redactor) -> UpstreamError:
    """Turn an error event in a stream (its whole JSON) into what to raise."""
    found = _find_error(error)
    for name in ("code", "status", "status_code"):
        status = found.get(name)
        if isinstance(status, str) and status.isascii() and status.isdigit():
            status = int(status)
        if isinstance(status, int) and 400 <= status <= 599:
            return to_error(status, {}, error, redact)
    return to_error(500, {}, error, redact)


def parse_retry_after(headers: Mapping[bytes, bytes]) -> float | None:
    """Read how many seconds to wait from `retry-after-ms` or `retry-after` (seconds or a date)."""
    milliseconds = _number(headers.get(b"retry-after-ms", b""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get(b"retry-after")
    if value is None:
        return None
    seconds = _number(value)
    if seconds is not None:
        return seconds
    try:
        at = email.utils.parsedate_to_datetime(value.decode("latin-1"))
    except ValueError:
        return None
    return max(0.0, at.timestamp() - time.time())


def _number(text: bytes) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < 1e9 else None


def _find_error(body: bytes) -> dict[str, Any]:
    """Find the error in the shapes that servers use: OpenAI's, a text, FastAPI's, vLLM's old one.

    Empty if there is none.
    """
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    if not isinstance(answer, dict):
        return {}
    error = answer.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error}
    detail = answer.get("detail")
    if detail is not None:
        text = detail if isinstance(detail, str) else msgspec.json.encode(detail).decode()
        return {"message": text}
    return answer if "message" in answer else {}
