"""Guests, tokens and API keys."""

import base64
import json
import secrets
import time
from typing import Any

import httpx
import jwt
import openai
import pytest

from cli.launch import LaunchedServer
from tests.acceptance.conftest import SIMULATED
from tests.support.server import eventually, http_client, openai_client

ASK: list[Any] = [{"role": "user", "content": "Hello."}]


def guest(http: httpx.Client) -> dict[str, Any]:
    """Become a guest; returns what the server said."""
    response = http.post("/auth/guest-login")
    assert response.status_code == 201, response.text
    return dict(response.json())


@pytest.mark.requirement("auth.guest")
@pytest.mark.parametrize("path", ["/auth/guest", "/auth/guest-login"])
def test_a_guest_gets_tokens_and_may_chat(server: LaunchedServer, path: str) -> None:
    with http_client(server.url) as http:
        response = http.post(path)
    assert response.status_code == 201
    found = response.json()
    assert {
        *("user_id", "principal_id", "username"),
        *("access_token", "refresh_token", "token_type", "expires_in"),
    } <= set(found)
    assert found["token_type"].lower() == "bearer"
    assert found["expires_in"] > 0
    client = openai_client(server.url, found["access_token"])
    answer = client.chat.completions.create(model=SIMULATED, messages=ASK)
    assert answer.choices[0].message.content


@pytest.mark.requirement("auth.refresh")
def test_a_refresh_token_works_once(server: LaunchedServer) -> None:
    with http_client(server.url) as http:
        first = guest(http)
        renewed = http.post("/auth/refresh-token", json={"refresh_token": first["refresh_token"]})
        assert renewed.status_code == 200
        tokens = renewed.json()
        assert tokens["refresh_token"] != first["refresh_token"]
        bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
        assert http.get("/v1/models", headers=bearer).status_code == 200
        again = http.post("/auth/refresh-token", json={"refresh_token": first["refresh_token"]})
    assert again.status_code == 401


@pytest.mark.requirement("auth.logout")
def test_a_logout_ends_the_refresh_token(server: LaunchedServer) -> None:
    with http_client(server.url) as http:
        found = guest(http)
        bearer = {"Authorization": f"Bearer {found['access_token']}"}
        body = {"refresh_token": found["refresh_token"]}
        assert http.post("/auth/logout", headers=bearer, json=body).is_success
        assert http.post("/auth/refresh-token", json=body).status_code == 401


@pytest.mark.requirement("auth.me")
def test_me_names_the_guest(server: LaunchedServer) -> None:
    with http_client(server.url) as http:
        found = guest(http)
        bearer = {"Authorization": f"Bearer {found['access_token']}"}
        response = http.get("/auth/me", headers=bearer)
    assert response.status_code == 200
    assert response.json()["id"] == found["principal_id"]
    assert response.headers["x-auth-method"] == "jwt"


@pytest.mark.requirement("auth.key.header")
def test_a_key_may_come_in_its_own_header(server: LaunchedServer, api_key: str) -> None:
    with http_client(server.url) as http:
        response = http.get("/v1/models", headers={"X-API-Key": api_key})
    assert response.status_code == 200
    assert response.headers["x-auth-method"] == "api_key"


@pytest.mark.requirement("auth.key.revoked")
def test_a_revoked_key_is_refused_on_every_edge(server: LaunchedServer) -> None:
    created = server.jan("keys", "create", "--json", "--name", "soon revoked")
    key = json.loads(created.stdout)
    clients = [http_client(url, key["key"]) for url in server.edges]
    assert [one.get("/v1/models").status_code for one in clients] == [200] * len(clients)
    assert server.jan("keys", "revoke", key["id"]).returncode == 0
    # The verb returned: a second is what the edges have from then on.
    for one in clients:
        eventually(lambda http=one: http.get("/v1/models").status_code == 401, timeout=1.0)  # type: ignore[misc]
        one.close()


def with_claims(token: str, **claims: object) -> str:
    """A token with other claims under the old signature."""
    head, body, signature = token.split(".")
    known = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    changed = base64.urlsafe_b64encode(json.dumps({**known, **claims}).encode()).rstrip(b"=")
    return f"{head}.{changed.decode()}.{signature}"


def unsigned(token: str) -> str:
    """A token that says it needs no signature."""
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return f"{head}.{token.split('.')[1]}."


@pytest.mark.requirement("auth.garbled")
def test_tokens_that_are_not_ours_are_refused(server: LaunchedServer) -> None:
    with http_client(server.url) as http:
        good = guest(http)["access_token"]
        bad = [
            "x",
            "a.b.c",
            good[:-4],
            good + "x",
            with_claims(good, sub="somebody-else"),
            with_claims(good, exp=4_000_000_000),
            unsigned(good),
            "sk_live_" + secrets.token_urlsafe(32),
            "sk_live_",
            "\xff" * 40,
            "A" * 7000,
        ]
        for token in bad:
            header = b"Bearer " + token.encode("latin-1")
            response = http.get("/v1/models", headers=[(b"Authorization", header)])
            assert response.status_code == 401, token
            assert response.json()["error"]["code"], token


@pytest.mark.requirement("auth.garbled")
def test_an_expired_token_is_refused(server: LaunchedServer) -> None:
    [pem] = (server.data / "keys" / "jwt").glob("*.pem")
    with http_client(server.url) as http:
        good = guest(http)["access_token"]
        head = jwt.get_unverified_header(good)
        claims = jwt.decode(good, options={"verify_signature": False})
        key = pem.read_bytes()

        def status_of(lifetime: float) -> int:
            told = {**claims, "exp": time.time() + lifetime}
            token = jwt.encode(told, key, head["alg"], headers={"kid": head["kid"]})
            return http.get("/v1/models", headers={"Authorization": f"Bearer {token}"}).status_code

        assert status_of(60) == 200
        assert status_of(-60) == 401


@pytest.mark.requirement("auth.forged")
def test_identity_headers_are_not_believed(server: LaunchedServer, api_key: str) -> None:
    forged = {
        "X-Principal-Id": "admin",
        "X-User-Id": "admin",
        "X-Auth-Method": "jwt",
        "X-Scopes": "admin",
        "X-Forwarded-User": "admin",
    }
    with http_client(server.url) as http:
        assert http.get("/v1/models", headers=forged).status_code == 401
        response = http.get("/v1/models", headers={**forged, "X-API-Key": api_key})
    assert response.status_code == 200
    assert response.headers["x-principal-id"] != "admin"
    assert response.headers["x-auth-method"] == "api_key"
    assert "admin" not in response.headers.get("x-scopes", "")


@pytest.mark.requirement("errors.rate_limit")
def test_a_guest_is_limited(server: LaunchedServer) -> None:
    with http_client(server.url) as http:
        token = guest(http)["access_token"]
    client = openai_client(server.url, token)

    def chat() -> None:
        client.chat.completions.create(model=SIMULATED, messages=ASK, max_tokens=1)

    def chat_more_than_allowed() -> None:
        for _ in range(70):  # 60 a minute are
            chat()

    with pytest.raises(openai.RateLimitError) as caught:
        chat_more_than_allowed()
    assert float(caught.value.response.headers["retry-after"]) > 0
    assert caught.value.code == "rate_limit_exceeded"
