"""Access tokens: what is signed verifies, and nothing else."""

import base64
import json
import stat
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from jwt.algorithms import ECAlgorithm

from edge import issuer as issuers
from edge.issuer import Issuer
from schemas.errors import Unauthorized


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jwt"


def open_issuer(folder: Path, **changes: str) -> Issuer:
    return Issuer(folder, **({"issuer": "jan-server", "audience": "jan"} | changes))


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"sub": "user_1", "sid": "ses_1", "iat": now, "exp": now + 60} | changes


def code_of(issuer: Issuer, token: str) -> str | None:
    with pytest.raises(Unauthorized) as caught:
        issuer.verify(token)
    return caught.value.wire_code


def test_a_signed_token_verifies(folder: Path) -> None:
    issuer = open_issuer(folder)
    assert issuer.verify(issuer.sign(claims()))["sub"] == "user_1"


def test_edges_that_share_the_folder_verify_each_others_tokens(folder: Path) -> None:
    first, second = open_issuer(folder), open_issuer(folder)
    assert second.verify(first.sign(claims()))["sid"] == "ses_1"


def test_keys_are_readable_by_their_owner_only(folder: Path) -> None:
    open_issuer(folder)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {0o600}


def test_a_rotation_is_seen_by_running_edges(folder: Path) -> None:
    signing, verifying = open_issuer(folder), open_issuer(folder)
    before = signing.sign(claims())
    kid = issuers.rotate(folder)
    after = signing.sign(claims())
    assert jwt.get_unverified_header(after)["kid"] == kid
    assert verifying.verify(after)["sub"] == "user_1"
    assert verifying.verify(before)["sub"] == "user_1"
    assert verifying.jwks()["keys"][0]["kid"] == kid


def test_a_long_retired_key_is_forgotten(folder: Path) -> None:
    """A kid begins with its time: these two say that they are of 1970."""
    first, second = "0" * 26, "0" * 25 + "1"
    for kid in (first, second):
        made = issuers.rotate(folder)
        (folder / f"{made}.pem").rename(folder / f"{kid}.pem")
    third = issuers.rotate(folder)
    assert sorted(path.stem for path in folder.glob("*.pem")) == [second, third]


def test_the_published_keys_verify_tokens(folder: Path) -> None:
    issuer = open_issuer(folder)
    [key] = issuer.jwks()["keys"]
    assert "d" not in key
    public = ECAlgorithm.from_jwk(key)
    told = jwt.decode(issuer.sign(claims()), public, algorithms=["ES256"], audience="jan")
    assert told["iss"] == "jan-server"


def test_an_expired_token_is_said_to_be(folder: Path) -> None:
    issuer = open_issuer(folder)
    assert code_of(issuer, issuer.sign(claims(exp=int(time.time()) - 60))) == "token_expired"


def forge(token: str, header: dict[str, Any]) -> str:
    """The same claims and signature under another header."""
    text = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return ".".join([text, *token.split(".")[1:]])


def test_garbled_and_forged_tokens_are_refused(folder: Path, tmp_path: Path) -> None:
    issuer = open_issuer(folder)
    good = issuer.sign(claims())
    kid = jwt.get_unverified_header(good)["kid"]
    other = open_issuer(tmp_path / "other").sign(claims())
    hmac = jwt.encode(
        claims(iss="jan-server", aud="jan"), "k" * 64, algorithm="HS256", headers={"kid": kid}
    )
    unsigned = jwt.encode(claims(), None, algorithm="none", headers={"kid": kid})
    bad = [
        "",
        "a.b.c",
        "...",
        "x" * 5000,
        good[:-4],
        good[:-6] + "AAAAAA",
        other,
        hmac,
        unsigned,
        forge(good, {"alg": "none", "kid": kid}),
        forge(good, {"alg": "ES256", "kid": "../../etc/passwd"}),
        forge(good, {"alg": "ES256", "kid": 5}),
        forge(good, {"alg": "ES256", "kid": ["a"]}),
        open_issuer(folder, issuer="else").sign(claims()),
        open_issuer(folder, audience="else").sign(claims()),
        issuer.sign({"sub": "user_1", "exp": 2**31}),
        issuer.sign(claims(iat=int(time.time()) + 600)),
    ]
    assert [code_of(issuer, token) for token in bad] == ["invalid_token"] * len(bad)
