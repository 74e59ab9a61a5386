"""Credentials become principals, or a 401 that says why."""

import time
from pathlib import Path
from typing import Any

import pytest

from edge.auth import Authenticator, GuestLimits
from edge.issuer import Issuer
from edge.keys import Keys
from edge.sessions import Revoked
from schemas.commands import encode
from schemas.errors import Unauthorized
from schemas.keys import (
    KeyLimits,
    KeyRecord,
    KeysRevoked,
    encode_record,
    hash_key,
    new_key,
    revocation_name,
)

SECRET = b"s" * 32


class World:
    """Keys, an issuer, and who has logged out."""

    def __init__(self, folder: Path) -> None:
        self.keys = Keys(SECRET)
        self.issuer = Issuer(folder, issuer="jan-server", audience="jan")
        self.revoked = Revoked(3600)
        self._auth = Authenticator(self.keys, self.issuer, GuestLimits(60, 8), self.revoked)
        self.authenticate = self._auth.authenticate

    def add_key(self, **changes: Any) -> bytes:
        key = new_key()
        told = {
            "id": "key_1",
            "name": "n",
            "principal": "user_1",
            "prefix": "sk_live_",
            "suffix": key[-4:],
            "created": 0.0,
        }
        record = encode_record(KeyRecord(**(told | changes)))
        self.keys.on_change(hash_key(SECRET, key), record, 1)
        return key.encode()

    def token(self, **changes: Any) -> bytes:
        now = int(time.time())
        claims = {"sub": "user_1", "sid": "ses_1", "iat": now, "exp": now + 60, "guest": True}
        return self.issuer.sign(claims | changes).encode()

    def refusal(self, **headers: bytes) -> str | None:
        given = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        with pytest.raises(Unauthorized) as caught:
            self.authenticate(given)
        return caught.value.wire_code


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("name", [b"x-api-key", b"authorization"])
def test_a_key_comes_in_either_header(world: World, name: bytes) -> None:
    key = world.add_key(limits=KeyLimits(rpm=5, in_flight=2), scopes=["chat"])
    value = b"bearer  " + key if name == b"authorization" else key
    principal = world.authenticate({name: value})
    assert (principal.id, principal.method, principal.key_id) == ("user_1", "api_key", "key_1")
    assert (principal.rpm, principal.in_flight) == (5, 2)
    assert dict(principal.headers) == {
        b"x-principal-id": b"user_1",
        b"x-auth-method": b"api_key",
        b"x-scopes": b"chat",
    }


def test_a_guests_token_carries_a_guests_limits(world: World) -> None:
    token = world.token(preferred_username="guest-1", scope="chat models")
    for _ in range(2):  # the second time from memory
        principal = world.authenticate({b"authorization": b"Bearer " + token})
        assert (principal.id, principal.method, principal.guest) == ("user_1", "jwt", True)
        assert (principal.rpm, principal.in_flight) == (60, 8)
        assert principal.scopes == ("chat", "models")


def test_two_credentials_must_be_of_one_principal(world: World) -> None:
    mine, other = world.add_key(), world.add_key(principal="user_2")
    bearer = b"Bearer " + world.token()
    assert world.authenticate({b"authorization": bearer, b"x-api-key": mine}).id == "user_1"
    assert world.refusal(authorization=bearer, x_api_key=other) == "conflicting_credentials"
    assert world.refusal(authorization=b"Bearer a.b.c", x_api_key=mine) == "invalid_token"


def test_what_is_missing_or_garbled_is_told_apart(world: World) -> None:
    assert world.refusal() == "missing_credentials"
    assert world.refusal(authorization=b"") == "invalid_credentials"
    assert world.refusal(authorization=b"Bearer") == "invalid_credentials"
    assert world.refusal(authorization=b"Basic dTpw") == "invalid_credentials"
    assert world.refusal(authorization=b"Bearer sk_live_0") == "invalid_api_key"
    assert world.refusal(authorization=b"Bearer nonsense") == "invalid_api_key"
    assert world.refusal(authorization=b"Bearer \xff\xfe") == "invalid_api_key"
    assert world.refusal(authorization=b"Bearer a.b.c") == "invalid_token"
    assert world.refusal(x_api_key=b"") == "invalid_api_key"
    assert world.refusal(x_api_key=world.token()) == "invalid_api_key"


def test_all_keys_end_that_a_principal_had_when_they_were_deleted(world: World) -> None:
    old, new = world.add_key(created=999.5), world.add_key(created=1000.5)
    of_other = world.add_key(created=999.5, principal="user_2")
    told = encode(KeysRevoked("user_1", 1000.0))
    world.keys.on_change(revocation_name("user_1"), told, 2)
    assert world.refusal(x_api_key=old) == "invalid_api_key"
    for good in (new, of_other):
        world.authenticate({b"x-api-key": good})


def test_a_key_ends_when_its_record_says_so(world: World) -> None:
    now = time.time()
    assert world.refusal(x_api_key=world.add_key(revoked_at=now)) == "invalid_api_key"
    assert world.refusal(x_api_key=world.add_key(expires_at=now - 1)) == "invalid_api_key"
    world.authenticate({b"x-api-key": world.add_key(expires_at=now + 60)})
    key = world.add_key()
    world.keys.on_change(hash_key(SECRET, key.decode()), None, 2)
    assert world.refusal(x_api_key=key) == "invalid_api_key"


def test_a_record_that_cannot_be_read_is_no_key(world: World) -> None:
    world.keys.on_change("name", b"{", 1)
    assert len(world.keys) == 0


def test_a_token_expires_though_it_was_verified_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bearer = b"Bearer " + world.token()
    world.authenticate({b"authorization": bearer})
    later = time.time() + 120
    monkeypatch.setattr("edge.auth.time.time", lambda: later)
    assert world.refusal(authorization=bearer) == "token_expired"


def test_an_ended_session_voids_its_tokens_at_once(world: World) -> None:
    bearer = b"Bearer " + world.token()
    world.authenticate({b"authorization": bearer})
    world.revoked.on_change("revoked.ses_1", b"{}", 1)
    assert world.refusal(authorization=bearer) == "token_revoked"
    world.authenticate({b"authorization": b"Bearer " + world.token(sid="ses_2")})
