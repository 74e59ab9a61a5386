"""Who asks: API keys and access tokens become principals."""

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from edge.issuer import Issuer
from edge.keys import Keys
from schemas.errors import Unauthorized
from schemas.keys import KeyRecord

_KEY_START: Final = "sk_"
_CACHED: Final = 10_000  # verified tokens; about 1 KiB each
GUEST_SCOPES: Final = ("chat", "models")


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever a credential stands for. A limit of 0 is none."""

    id: str
    username: str
    method: Literal["jwt", "api_key"]
    scopes: tuple[str, ...] = ()
    guest: bool = False
    key_id: str | None = None
    session: str | None = None
    expires_at: float = float("inf")
    rpm: int = 0
    in_flight: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        told = [
            (b"x-principal-id", self.id.encode()),
            (b"x-auth-method", self.method.encode()),
            (b"x-scopes", " ".join(self.scopes).encode()),
        ]
        object.__setattr__(self, "headers", tuple(told))


@dataclass(frozen=True, slots=True)
class GuestLimits:
    """What one guest may do."""

    rpm: int
    in_flight: int


class Revocations(Protocol):
    """What knows the sessions that have ended before their access tokens did."""

    def has(self, session: str, principal: str) -> bool:
        """Tell whether a principal's session has ended."""


class Authenticator:
    """Turns a request's credentials into a principal, in memory."""

    def __init__(
        self, keys: Keys, issuer: Issuer, guests: GuestLimits, revoked: Revocations
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._guests = guests
        self._revoked = revoked
        self._tokens: OrderedDict[str, Principal] = OrderedDict()

    def authenticate(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Find who asks, from `Authorization: Bearer` or `X-API-Key`. Raises Unauthorized."""
        authorization = headers.get(b"authorization")
        api_key = headers.get(b"x-api-key")
        bearer = self._read_bearer(authorization) if authorization is not None else None
        if api_key is None:
            if bearer is None:
                raise Unauthorized(
                    "no credential was given: send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
                    code="missing_credentials",
                )
            return bearer
        by_key = self._of_key(api_key.decode("latin-1"))
        if bearer is not None and bearer.id != by_key.id:
            raise Unauthorized(
                "the two credentials belong to different principals",
                code="conflicting_credentials",
            )
        return bearer or by_key

    def _read_bearer(self, authorization: bytes) -> Principal:
        scheme, _, credential = authorization.decode("latin-1").partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not credential:
            raise Unauthorized(
                "the Authorization header must be `Bearer` and a key or token",
                code="invalid_credentials",
            )
        if credential.startswith(_KEY_START):
            return self._of_key(credential)
        # What has no dots is no token: most likely somebody else's API key.
        return self._of_token(credential) if "." in credential else self._of_key(credential)

    def _of_key(self, key: str) -> Principal:
        return _of_record(self._keys.find(key))

    def _of_token(self, token: str) -> Principal:
        principal = self._tokens.get(token)
        if principal is None:
            principal = self._of_claims(self._issuer.verify(token))
            self._tokens[token] = principal
            if len(self._tokens) > _CACHED:
                self._tokens.popitem(last=False)
        if principal.expires_at < time.time():
            self._tokens.pop(token, None)
            raise Unauthorized("the access token has expired", code="token_expired")
        if principal.session is not None and self._revoked.has(principal.session, principal.id):
            raise Unauthorized("the session was ended", code="token_revoked")
        return principal

    def _of_claims(self, claims: dict[str, Any]) -> Principal:
        guest = bool(claims.get("guest"))
        return Principal(
            id=str(claims["sub"]),
            username=str(claims.get("preferred_username", claims["sub"])),
            method="jwt",
            scopes=tuple(str(claims.get("scope", "")).split()),
            guest=guest,
            session=str(claims["sid"]),
            expires_at=float(claims["exp"]),
            rpm=self._guests.rpm if guest else 0,
            in_flight=self._guests.in_flight if guest else 0,
        )


def _of_record(record: KeyRecord) -> Principal:
    return Principal(
        id=record.principal,
        username=record.name or record.id,
        method="api_key",
        scopes=tuple(record.scopes),
        key_id=record.id,
        rpm=record.limits.rpm,
        in_flight=record.limits.in_flight,
    )
