"""Sessions of signed-in users: refresh tokens that work once, and logouts that work at once.

Bucket `sessions`: `session.<id>` holds the session with hashes only; `revoked.<id>` says for as
long as an access token may live that those of the session are void, and every edge watches it.
`revoked.user-<hash>` says it of all sessions that a principal had then, while any of them may live.

A refresh token is `rt_<session>.<family>.<turn>`. The family's secret stays, the turn's changes
with each refresh: who knows the family but not the turn shows a token that was used before. Either
its owner or a thief is late; nobody can tell which, so the session ends.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bus.buckets import Bucket
from edge.auth import GUEST_SCOPES
from edge.issuer import Issuer
from schemas import ids
from schemas.api.auth import TokenPair
from schemas.errors import BusError, BusUnavailable, Conflict, Unauthorized

REVOKED = "revoked"
_USER = f"{REVOKED}.user-"
_ATTEMPTS = 3


class Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of a session. Times are in unix seconds."""

    principal: str
    username: str
    family: str
    turn: str
    created: float
    expires_at: float
    guest: bool = False
    v: int = 1


class Gone(msgspec.Struct, frozen=True):
    """A principal who was deleted then (unix seconds), with all sessions."""

    principal: str
    at: float


_decode_gone = msgspec.json.Decoder(Gone).decode


class Revoked:
    """Sessions whose access tokens are void; fed by a watch on `revoked.>`."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._until: dict[str, float] = {}
        self._gone: dict[str, float] = {}  # a principal → when all sessions ended

    def has(self, session: str, principal: str) -> bool:
        """Tell whether a principal's session has ended."""
        if session in self._until:
            return True
        gone = self._gone.get(principal)
        return gone is not None and ids.created_ms(session) / 1000 <= gone

    def on_change(self, key: str, value: bytes | None, _revision: int) -> None:
        """Take a change from the bucket's watch; an entry that has expired was needed no more."""
        if value is None:
            return
        if key.startswith(_USER):
            self.add_principal(_decode_gone(value))
        else:
            self.add(key.removeprefix(f"{REVOKED}."))

    def add_principal(self, gone: Gone) -> None:
        """End all sessions that a principal has had until then."""
        self._gone[gone.principal] = max(gone.at, self._gone.get(gone.principal, 0.0))

    def add(self, session: str) -> None:
        """End a session here, until its last access token has expired."""
        now = time.time()
        for past in [key for key, until in self._until.items() if until < now]:
            del self._until[past]
        self._until[session] = now + self._lifetime


class Sessions:
    """Opens, renews and ends sessions."""

    def __init__(
        self,
        bucket: Bucket,
        issuer: Issuer,
        revoked: Revoked,
        *,
        access_lifetime: int,
        refresh_lifetime: int,
    ) -> None:
        self._bucket = bucket
        self._issuer = issuer
        self._revoked = revoked
        self._access_lifetime = access_lifetime
        self._refresh_lifetime = refresh_lifetime

    async def open(self, principal: str, username: str, *, guest: bool) -> TokenPair:
        """Begin a session."""
        session_id = ids.new_id("ses_")
        family, turn = secrets.token_urlsafe(18), secrets.token_urlsafe(18)
        now = time.time()
        session = Session(
            principal=principal,
            username=username,
            family=_hash(family),
            turn=_hash(turn),
            created=now,
            expires_at=now + self._refresh_lifetime,
            guest=guest,
        )
        with _bus_errors():
            await self._bucket.create(_key(session_id), msgspec.json.encode(session))
        return self._to_pair(session_id, session, family, turn)

    async def refresh(self, token: str) -> TokenPair:
        """Exchange a refresh token for new tokens. Raises Unauthorized; reuse ends the session."""
        session_id, family, turn = _split(token)
        for _ in range(_ATTEMPTS):
            with _bus_errors():
                entry = await self._bucket.get(_key(session_id))
            if entry is None:
                break
            session = msgspec.json.decode(entry.value, type=Session)
            if not _same(family, session.family) or session.expires_at < time.time():
                break
            if self._revoked.has(session_id, session.principal):
                break
            if not _same(turn, session.turn):
                await self.end(session_id)
                raise Unauthorized(
                    "the refresh token was used before: the session is ended",
                    code="refresh_token_reused",
                )
            fresh = secrets.token_urlsafe(18)
            renewed = msgspec.structs.replace(
                session, turn=_hash(fresh), expires_at=time.time() + self._refresh_lifetime
            )
            try:
                with _bus_errors():
                    await self._bucket.update(
                        _key(session_id), msgspec.json.encode(renewed), entry.revision
                    )
            except Conflict:
                continue  # somebody else used the token meanwhile: the next look will tell
            return self._to_pair(session_id, renewed, family, fresh)
        raise _unknown()

    async def end_by_token(self, token: str) -> None:
        """End the session of a refresh token, whichever of its turns; do nothing if unknown."""
        try:
            session_id, family, _ = _split(token)
        except Unauthorized:
            return
        with _bus_errors():
            entry = await self._bucket.get(_key(session_id))
        if entry is not None:
            session = msgspec.json.decode(entry.value, type=Session)
            if _same(family, session.family):
                await self.end(session_id)

    async def end(self, session_id: str) -> None:
        """End a session: its refresh token at once, its access tokens when the edges hear of it."""
        with _bus_errors():
            # First what every edge watches: half done, the session can still be ended again.
            ttl = self._access_lifetime + 60
            await self._bucket.put(f"{REVOKED}.{session_id}", b"{}", ttl=ttl)
            await self._bucket.delete(_key(session_id))
        self._revoked.add(session_id)

    async def end_all(self, principal: str) -> None:
        """End all sessions of a principal, on every edge."""
        gone = Gone(principal, time.time())
        key = _USER + hashlib.sha256(principal.encode()).hexdigest()[:32]
        with _bus_errors():
            await self._bucket.put(key, msgspec.json.encode(gone), ttl=self._refresh_lifetime)
        self._revoked.add_principal(gone)

    def _to_pair(self, session_id: str, session: Session, family: str, turn: str) -> TokenPair:
        now = int(time.time())
        expires_at = now + self._access_lifetime
        claims = {
            "sub": session.principal,
            "sid": session_id,
            "iat": now,
            "exp": expires_at,
            "jti": secrets.token_urlsafe(9),
            "preferred_username": session.username,
            "guest": session.guest,
            "scope": " ".join(GUEST_SCOPES),
        }
        return TokenPair(
            access_token=self._issuer.sign(claims),
            refresh_token=f"rt_{session_id}.{family}.{turn}",
            token_type="Bearer",  # noqa: S106 (a scheme, not a secret)
            expires_in=self._access_lifetime,
            expires_at=expires_at,
        )


def _key(session_id: str) -> str:
    return f"session.{session_id}"


def _split(token: str) -> tuple[str, str, str]:
    parts = token.removeprefix("rt_").split(".")
    if not token.startswith("rt_") or len(parts) != 3:
        raise _unknown()
    session_id, family, turn = parts
    if not ids.is_unique_part(session_id.removeprefix("ses_")):
        raise _unknown()
    return session_id, family, turn


def _unknown() -> Unauthorized:
    return Unauthorized("the refresh token is not valid", code="invalid_refresh_token")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _same(secret: str, hashed: str) -> bool:
    return hmac.compare_digest(_hash(secret), hashed)


@contextmanager
def _bus_errors() -> Iterator[None]:
    try:
        yield
    except BusError as error:
        raise BusUnavailable("the message bus did not answer", retry_after=1) from error
