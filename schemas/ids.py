"""Ids: a prefix and 26 characters that sort by time of creation (a ULID in lower case)."""

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
_UNIQUE_LENGTH = 26
_RUN = "run_"
_PUBLIC_PREFIXES = {"chat": "chatcmpl-", "completion": "cmpl-", "embedding": "embd-"}


def new_id(prefix: str) -> str:
    """Make an id: `prefix`, then 48 bits of milliseconds and 80 random bits."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    return prefix + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def new_run_id() -> str:
    """Make the id of a run, from which every public id of its result derives."""
    return new_id(_RUN)


def public_id(run_id: str, kind: str) -> str:
    """Derive the id that the client sees, e.g. `chatcmpl-…` for a chat completion."""
    return _PUBLIC_PREFIXES[kind] + run_id.removeprefix(_RUN)


def run_id_of(any_id: str) -> str | None:
    """Find the run that a public id, or a run id itself, belongs to; None if it is no such id."""
    for prefix in (_RUN, *_PUBLIC_PREFIXES.values()):
        unique = any_id.removeprefix(prefix)
        if unique != any_id:
            return _RUN + unique if is_unique_part(unique) else None
    return None


def is_unique_part(text: str) -> bool:
    """Tell whether `text` has the form of an id's unique part: safe in a subject or a path."""
    return len(text) == _UNIQUE_LENGTH and all(char in _ALPHABET for char in text)


def created_ms(any_id: str) -> int:
    """Read an id's time of creation, in milliseconds since 1970."""
    number = 0
    for char in any_id[-_UNIQUE_LENGTH:][:10]:
        number = number << 5 | _ALPHABET.index(char)
    return number
