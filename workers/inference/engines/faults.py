"""What an upstream's error answer means: whose fault it is, and whether another may do better."""

import email.utils
import itertools
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from schemas.errors import (
    UpstreamError,
    UpstreamNotFound,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)

_REJECTIONS = (400, 404, 409, 413, 422)  # the client's request is at fault
_MESSAGE_LIMIT = 2000
_PIECE = 12  # characters of a long secret that are kept in as the whole is
_PIECES_FROM = 20  # characters from which on a secret is long
_DURATION = re.compile(
    r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)
_UNITS = (86400.0, 3600.0, 60.0, 1.0, 0.001)


class Redactor:
    """Keeps a provider's secrets out of texts, also where the provider repeats them.

    Finds them in the spellings of JSON and of URLs, with white space in between, and long ones in
    pieces.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        known = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)
        self._spellings = re.compile("|".join(map(_to_pattern, known))) if known else None
        self._pieces = {
            secret[at : at + _PIECE]
            for secret in known
            if len(secret) >= _PIECES_FROM
            for at in range(len(secret) - _PIECE + 1)
        }

    def __call__(self, text: str) -> str:
        text = text[: 8 * _MESSAGE_LIMIT]
        if self._spellings is not None:
            text = self._spellings.sub("***", text)
        return self._mask_pieces(text)[:_MESSAGE_LIMIT]

    def _mask_pieces(self, text: str) -> str:
        if not self._pieces:
            return text
        masked = bytearray(len(text))
        for at in range(len(text) - _PIECE + 1):
            if text[at : at + _PIECE] in self._pieces:
                masked[at : at + _PIECE] = b"\x01" * _PIECE
        groups = itertools.groupby(zip(masked, text, strict=True), key=lambda pair: pair[0])
        return "".join(
            "***" if secret else "".join(letter for _, letter in pairs) for secret, pairs in groups
        )


def _to_pattern(secret: str) -> str:
    return r"\s*".join(_to_spellings(letter) for letter in secret)


def _to_spellings(letter: str) -> str:
    """A letter as it is, with backslashes before it, as \\u0000 and as %00."""
    code = f"{ord(letter):02x}"
    # Bounded: a text of nothing but backslashes must not take for ever.
    return rf"(?:\\{{0,8}}{re.escape(letter)}|\\{{1,8}}u00(?i:{code})|%(?i:{code}))"


def to_error(
    status: int, headers: Mapping[bytes, bytes], body: bytes, redact: Redactor
) -> UpstreamError:
    """Turn an answer with an error status, or an error event with one, into what to raise."""
    found = _find_error(body)
    message = redact(str(found.get("message") or f"the provider answered with status {status}"))
    retry_after = _find_retry_after(status, headers, found)
    if status in _REJECTIONS:
        param, code = found.get("param"), found.get("code")
        refusal = UpstreamNotFound if status == 404 else UpstreamRejected
        return refusal(
            message,
            status=status,
            param=redact(param) if isinstance(param, str) else None,
            code=redact(code) if isinstance(code, str) else None,
            retry_after=retry_after,
        )
    if status in (401, 403, 407):  # our key, not the client's; the text may quote it
        who = "proxy" if status == 407 else "provider"
        text = f"the {who} refused the server's credentials ({status})"
        return UpstreamError(text, retry_after=retry_after)
    if status == 429:
        return UpstreamRateLimited(message, retry_after=retry_after)
    text = f"the provider failed ({status}): {message}" if found else message
    if status in (408, 504):
        return UpstreamTimeout(text, retry_after=retry_after)
    return UpstreamError(text, retry_after=retry_after)


def to_stream_error(
    error: bytes, redact: Redactor, headers: Mapping[bytes, bytes] | None = None
) -> UpstreamError:
    """Turn an error event in a stream (its whole JSON) into what to raise."""
    headers = headers or {}
    found = _find_error(error)
    for name in ("code", "status", "status_code"):
        status = found.get(name)
        if isinstance(status, str) and status.isascii() and status.isdigit():
            status = int(status)
        if isinstance(status, int) and 400 <= status <= 599:
            return to_error(status, headers, error, redact)
    return to_error(500, headers, error, redact)


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
        return max(0.0, at.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def parse_rate_limit_reset(headers: Mapping[bytes, bytes]) -> float | None:
    """Read in how many seconds a limit is reset, from OpenAI's `x-ratelimit-reset-…` headers.

    The one that is used up counts; if none says that it is, the one that is reset first.
    """
    resets = []
    for name, value in headers.items():
        if not name.startswith(b"x-ratelimit-reset"):
            continue
        seconds = _duration(value.decode("latin-1").strip())
        if seconds is not None:
            left = headers.get(name.replace(b"-reset", b"-remaining"), b"")
            resets.append((_number(left) == 0, seconds))
    used_up = [seconds for is_used_up, seconds in resets if is_used_up]
    return max(used_up) if used_up else min((seconds for _, seconds in resets), default=None)


def _find_retry_after(
    status: int, headers: Mapping[bytes, bytes], found: Mapping[str, Any]
) -> float | None:
    told = parse_retry_after(headers)
    if told is None and status in (429, 503):
        told = parse_rate_limit_reset(headers)
    if told is None:
        body = found.get("retry_after")  # as servers of our kind say it
        if isinstance(body, int | float) and 0 <= body < 1e9:
            return float(body)
    return told


def _duration(text: str) -> float | None:
    """Seconds of `6m0s`, `1h2m3.5s`, `20ms`, a plain number of seconds, or a unix time."""
    number = _number(text.encode("latin-1"), limit=1e11)
    if number is not None:
        return number if number < 1e9 else max(0.0, number - time.time())
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        return None
    return sum(float(part or 0) * unit for part, unit in zip(match.groups(), _UNITS, strict=True))


def _number(text: bytes, limit: float = 1e9) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < limit else None


def _find_error(body: bytes) -> dict[str, Any]:
    """Find the error in the shapes that servers use: OpenAI's, a text, FastAPI's, vLLM's old one.

    Empty if there is none.
    """
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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
