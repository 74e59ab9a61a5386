"""The built-in issuer of access tokens: key pairs in a folder, one algorithm, a JWKS.

A key pair is a file `<kid>.pem`; kids sort by time. The newest signs, all verify, so a rotation
is a new file. Edges that share the folder see it when they sign next or meet an unknown kid.
"""

import itertools
import os
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from schemas import ids
from schemas.errors import Unauthorized

ALGORITHM = "ES256"  # pinned: a token can't choose how it is checked
_RETIRED_FOR = 86400.0  # seconds that a retired key still verifies; no access token lives longer
_SKEW = 5  # seconds that clocks may differ


class Issuer:
    """Signs and verifies access tokens with the keys of a folder."""

    def __init__(self, folder: Path, *, issuer: str, audience: str) -> None:
        self._folder = folder
        self._issuer = issuer
        self._audience = audience
        self._private: dict[str, ec.EllipticCurvePrivateKey] = {}
        self._public: dict[str, ec.EllipticCurvePublicKey] = {}
        self._changed_at = -1
        ensure_keys(folder)
        self._load()

    def sign(self, claims: dict[str, Any]) -> str:
        """Make a token of `claims`; issuer and audience are added."""
        self._load()
        kid = max(self._private)
        told = claims | {"iss": self._issuer, "aud": self._audience}
        return jwt.encode(told, self._private[kid], algorithm=ALGORITHM, headers={"kid": kid})

    def verify(self, token: str) -> dict[str, Any]:
        """Read a token's claims. Raises Unauthorized: token_expired or invalid_token."""
        try:
            return jwt.decode(
                token,
                self._key_of(token),
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                leeway=_SKEW,
                options={"require": ["exp", "iat", "sub", "sid"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("the access token has expired", code="token_expired") from None
        except (jwt.InvalidTokenError, ValueError):
            raise Unauthorized("the access token is not valid", code="invalid_token") from None

    def jwks(self) -> dict[str, Any]:
        """List the public keys, the newest first."""
        self._load()
        return {
            "keys": [
                {
                    **ECAlgorithm.to_jwk(self._public[kid], as_dict=True),
                    "kid": kid,
                    "use": "sig",
                    "alg": ALGORITHM,
                }
                for kid in sorted(self._public, reverse=True)
            ]
        }

    def _key_of(self, token: str) -> ec.EllipticCurvePublicKey:
        kid = jwt.get_unverified_header(token).get("kid", "")
        if kid not in self._public:
            self._load()
        try:
            return self._public[kid]
        except KeyError:
            raise jwt.InvalidTokenError("signed with an unknown key") from None

    def _load(self) -> None:
        """Read the folder again if it has changed."""
        changed_at = self._folder.stat().st_mtime_ns
        if changed_at == self._changed_at:
            return
        self._private = {path.stem: _read(path) for path in sorted(self._folder.glob("*.pem"))}
        self._public = {kid: key.public_key() for kid, key in self._private.items()}
        self._changed_at = changed_at


def ensure_keys(folder: Path) -> None:
    """Make the first key pair, unless there is one."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not any(folder.glob("*.pem")):
        _add(folder)


def rotate(folder: Path) -> str:
    """Add a key pair that signs from now on, and forget those retired for a day; return its kid."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kid = _add(folder)
    kids = sorted(path.stem for path in folder.glob("*.pem"))
    for old, successor in itertools.pairwise(kids):
        if time.time() - ids.created_ms(successor) / 1000 > _RETIRED_FOR:
            (folder / f"{old}.pem").unlink(missing_ok=True)
    return kid


def _add(folder: Path) -> str:
    newest = max((path.stem for path in folder.glob("*.pem")), default="")
    while (kid := ids.new_id("")) <= newest:
        pass  # made in the same millisecond
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    draft = folder / f".{kid}.half"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    draft.rename(folder / f"{kid}.pem")
    return kid


def _read(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} is not a key for {ALGORITHM}")
    return key
