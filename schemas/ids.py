"""Ids: a prefix and 26 characters that sort by time of creation (a ULID in lower case).

Half of a run id's 80 random bits are a keyed hash of the rest and of the run's owner: whose run it
is can be told from the id alone, on any edge, without a look-up.
"""

import hashlib
import hmac
import os
import re
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
_UNIQUE_LENGTH = 26
_LAST_MS = (1 << 48) - 1
_RUN = "run_"
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}|([0-9a-f]{32})")
_TAG_BITS = 40  # of a run id: a guess is right once in 10^12 requests
_PUBLIC_PREFIXES = {
    "chat": "chatcmpl-",
    "completion": "cmpl-",
    "embedding": "embd-",
    "count": "count-",
    "response": "resp_",
    "message": "msg_",  # a chat, as Anthropic's clients know it
}


def new_id(prefix: str) -> str:
    """Make an id: `prefix`, then 48 bits of milliseconds and 80 random bits."""
    return prefix + _to_text(_now_ms() << 80 | int.from_bytes(os.urandom(10), "big"))


def new_run_id(owner: str = "", secret: bytes = b"") -> str:
    """Make the id of a run of `owner`, from which every public id of its result derives."""
    rest = _now_ms() << 40 | int.from_bytes(os.urandom(5), "big")
    return _RUN + _to_text(rest << _TAG_BITS | _tag(rest, owner, secret))


def is_owner(run_id: str, owner: str, secret: bytes) -> bool:
    """Tell whether a run id was made for `owner`."""
    number = _to_number(run_id.removeprefix(_RUN))
    given = number & ((1 << _TAG_BITS) - 1)
    true = _tag(number >> _TAG_BITS, owner, secret)
    return hmac.compare_digest(given.to_bytes(5, "big"), true.to_bytes(5, "big"))


def public_id(run_id: str, kind: str) -> str:
    """Derive the id that the client sees, e.g. `chatcmpl-…` for a chat completion."""
    return _PUBLIC_PREFIXES[kind] + run_id.removeprefix(_RUN)


def run_id_of(any_id: str, kind: str | None = None) -> str | None:
    """Find the run that a public id (of that kind, if one is given) or a run id belongs to."""
    public = _PUBLIC_PREFIXES.values() if kind is None else (_PUBLIC_PREFIXES[kind],)
    for prefix in (_RUN, *public):
        unique = any_id.removeprefix(prefix)
        if unique != any_id:
            return _RUN + unique if is_unique_part(unique) else None
    return None


def derived_id(prefix: str, run_id: str, number: int) -> str:
    """The id of the so-manieth thing that came of a run: the same whoever makes it."""
    told = hashlib.sha256(b"%b\0%d" % (run_id.encode(), number)).digest()
    return prefix + _to_text(created_ms(run_id) << 80 | int.from_bytes(told[:10], "big"))


def is_unique_part(text: str) -> bool:
    """Tell whether `text` has the form of an id's unique part: safe in a subject or a path."""
    return len(text) == _UNIQUE_LENGTH and all(char in _ALPHABET for char in text)


def created_ms(any_id: str) -> int:
    """Read an id's time of creation, in milliseconds since 1970."""
    return _to_number(any_id[-_UNIQUE_LENGTH:][:10])


def first_id(prefix: str, at: float) -> str:
    """The least id that a moment (unix seconds) can have: those made earlier sort before it."""
    return prefix + _to_text(int(min(max(at, 0.0), _LAST_MS / 1000) * 1000) << 80)


def trace_id_of(text: str) -> str | None:
    """Find the trace in a W3C traceparent, or in its 32 hexadecimal digits alone."""
    match = _TRACE.fullmatch(text)
    return match[1] or match[2] if match else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _tag(rest: int, owner: str, secret: bytes) -> int:
    told = b"run" + rest.to_bytes(12, "big") + owner.encode()
    return int.from_bytes(hmac.digest(secret, told, "sha256")[: _TAG_BITS // 8], "big")


def _to_text(number: int) -> str:
    return "".join([_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5)])


def _to_number(text: str) -> int:
    number = 0
    for char in text:
        number = number << 5 | _ALPHABET.index(char)
    return number
