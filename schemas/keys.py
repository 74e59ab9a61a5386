"""API keys: how they look, how they are found, and what is known of one. Never the key itself."""

import hashlib
import hmac
import secrets

import msgspec

PREFIX = "sk_live_"
_REVOKED = "revoked."


class KeyLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a key may do at most; 0: no limit."""

    rpm: int = 0
    in_flight: int = 0


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the bucket `keys` holds under `hash_key(secret, key)`. Times are in unix seconds."""

    id: str
    name: str
    principal: str
    prefix: str
    suffix: str
    created: float
    expires_at: float | None = None
    revoked_at: float | None = None
    scopes: list[str] = []
    limits: KeyLimits = KeyLimits()
    v: int = 1

    def is_usable(self, now: float) -> bool:
        """Tell whether the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class KeysRevoked(msgspec.Struct, frozen=True, omit_defaults=True):
    """All keys of a principal that were made up to a moment: they were deleted with all they had.

    The bucket `keys` holds it under `revocation_name(principal)`: workers may write there, and so
    revoke keys, but never make one.
    """

    principal: str
    at: float
    v: int = 1


def new_key() -> str:
    """Make a key: 24 random bytes."""
    return PREFIX + secrets.token_hex(24)


def hash_key(secret: bytes, key: str) -> str:
    """Find a key's name in the bucket: whoever reads the bucket can't make a key from it."""
    return hmac.digest(secret, key.encode(), hashlib.sha256).hex()


def revocation_name(principal: str) -> str:
    """Where the bucket says that a principal's keys are revoked."""
    return _REVOKED + hashlib.sha256(principal.encode()).hexdigest()[:32]


def is_revocation(name: str) -> bool:
    """Tell such a name in the bucket from that of a key."""
    return name.startswith(_REVOKED)


def describe_key(key: str) -> tuple[str, str]:
    """Say how to show a key: its prefix and its last four characters."""
    return PREFIX, key[-4:]


decode_revocation = msgspec.json.Decoder(KeysRevoked).decode
decode_record = msgspec.json.Decoder(KeyRecord).decode
encode_record = msgspec.json.Encoder().encode
