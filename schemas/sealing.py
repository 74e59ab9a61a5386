"""Sealing secrets that travel in messages: pure functions, AES-256-GCM.

A sealed text is `sealed:` and the URL-safe base 64 of a random nonce with what was encrypted. Who
has the bus's files but not the key reads nothing.
"""

import base64
import binascii
import hashlib
import hmac
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PREFIX: Final = "sealed:"

_NONCE = 12
_PURPOSE: Final = b"jan sealing 1"
_NAMING: Final = b"jan sealing nonces 1\0"


class SealError(ValueError):
    """A text can't be opened: it was not sealed, not with this key, or was changed since."""


def seal(key: str, text: str) -> str:
    """Encrypt a text; twice the same gives two different ones. Raises SealError without a key."""
    return _seal(key, text, os.urandom(_NONCE))


def seal_same(key: str, text: str) -> str:
    """Encrypt a text so that twice the same gives the same, as a repeated command must be.

    The nonce follows from the text, so none is used for two texts. Raises SealError without a key.
    """
    return _seal(key, text, hmac.digest(key.encode(), _NAMING + text.encode(), "sha256")[:_NONCE])


def unseal(key: str, sealed: str) -> str:
    """Open what `seal` made. Raises SealError."""
    if not sealed.startswith(PREFIX):
        raise SealError("the text is not sealed")
    body = sealed[len(PREFIX) :]
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        return _cipher(key).decrypt(data[:_NONCE], data[_NONCE:], _PURPOSE).decode()
    except (binascii.Error, InvalidTag, ValueError):
        raise SealError("the text can't be opened with this key") from None


def is_sealed(text: str) -> bool:
    """Whether a text is one that `seal` made."""
    return text.startswith(PREFIX)


def _seal(key: str, text: str, nonce: bytes) -> str:
    sealed = nonce + _cipher(key).encrypt(nonce, text.encode(), _PURPOSE)
    return PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def _cipher(key: str) -> AESGCM:
    if not key:
        raise SealError("there is no key to seal with: set JAN_SEALING_KEY")
    return AESGCM(hashlib.sha256(_PURPOSE + key.encode()).digest())
