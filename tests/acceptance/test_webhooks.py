"""Webhooks of responses in the background: signed, and sent again until they arrive."""

import base64
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cli.launch import LaunchedServer
from tests.acceptance.conftest import SIMULATED
from tests.support.receiver import receiving
from tests.support.server import http_client, openai_client, running_server

PROVIDERS = """
providers:
  - name: simulated
    kind: simulated
    options: {seed: 1, ttft_ms: 1, token_ms: 1, cues: true}
    models:
      - {id: jan-simulated, capabilities: [chat]}
"""

HOSTILE = [
    "http://127.0.0.2/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.1/",
    "http://[::1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fe80::1]/",
    "http://somebody:word@example.com/",
    "http://example.com:22/",
    "ftp://example.com/x",
    "example.com",
    "",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedServer]:
    """A server that may send to one address of this machine's, spelt like this only."""
    file: Path = tmp_path_factory.mktemp("providers") / "providers.yaml"
    file.write_text(PROVIDERS)
    env = {"JAN_OUTBOUND_ALLOW": "127.0.0.1"}
    with running_server("--providers", str(file), env=env) as server:
        yield server


@pytest.fixture
def served(server: LaunchedServer) -> tuple[str, str]:
    return server.url, server.create_key()


@pytest.fixture
def http(served: tuple[str, str]) -> Iterator[httpx.Client]:
    with http_client(*served) as http:
        yield http


@pytest.fixture
def client(served: tuple[str, str]) -> openai.OpenAI:
    return openai_client(*served)


def ask(http: httpx.Client, said: str = "Go on.", **more: Any) -> dict[str, Any]:
    asked = {"model": SIMULATED, "input": said, "background": True} | more
    response: dict[str, Any] = http.post("/v1/responses", json=asked).raise_for_status().json()
    assert response["status"] == "queued"
    return response


def own_secret(http: httpx.Client) -> str:
    secret: str = http.get("/v1/webhooks/secret").raise_for_status().json()["secret"]
    return secret


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


@pytest.mark.requirement("responses.webhooks")
def test_a_webhook_is_signed_and_sent_until_it_arrives(
    http: httpx.Client, client: openai.OpenAI
) -> None:
    with receiving(500, 302) as receiver:
        response = ask(http, webhook=receiver.url)
        tries = receiver.wait_for(3, timeout=60)
    assert len({one.headers["webhook-id"] for one in tries}) == 1
    last = tries[-1]
    event = last.unwrap(client, own_secret(http))
    assert event.type == "response.completed"
    assert event.data.id == response["id"]
    for changed in (last._replace(body=last.body + " "), last):
        secret = new_secret() if changed is last else own_secret(http)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            changed.unwrap(client, secret)


@pytest.mark.requirement("responses.webhooks.events")
@pytest.mark.parametrize(
    ("said", "more", "status"),
    [
        ("Go on.", {}, "completed"),
        ("!tokens 400", {"max_output_tokens": 16}, "incomplete"),
        ("!fail 500", {}, "failed"),
        ("!stall 2", {}, "cancelled"),
    ],
)
def test_a_webhook_says_how_a_response_has_ended(
    http: httpx.Client, client: openai.OpenAI, said: str, more: dict[str, Any], status: str
) -> None:
    with receiving() as receiver:
        response = ask(http, said, webhook=receiver.url, **more)
        if status == "cancelled":
            http.post(f"/v1/responses/{response['id']}/cancel").raise_for_status()
        [arrived] = receiver.wait_for(1)
    event = arrived.unwrap(client, own_secret(http))
    assert event.type == f"response.{status}"
    read = http.get(f"/v1/responses/{response['id']}").raise_for_status().json()
    assert read["status"] == status
    assert event.created_at >= read["created_at"]


@pytest.mark.requirement("responses.webhooks.project")
def test_a_response_in_a_project_tells_the_project_s_webhook(
    http: httpx.Client, client: openai.OpenAI
) -> None:
    secret = new_secret()
    with receiving() as projects, receiving() as own:
        webhook = {"url": projects.url, "secret": secret}
        made = http.post("/v1/projects", json={"name": "Sea", "webhook": webhook})
        project = made.raise_for_status().json()
        assert project["webhook"] == {"url": projects.url, "has_secret": True}
        into = http.post("/v1/conversations", json={"project_id": project["id"]}).json()["id"]

        first = ask(http, conversation=into)
        [arrived] = projects.wait_for(1)
        event = arrived.unwrap(client, secret)
        assert (event.type, event.data.id) == ("response.completed", first["id"])

        second = ask(http, conversation=into, webhook=own.url)
        [arrived] = own.wait_for(1)
        assert arrived.unwrap(client, own_secret(http)).data.id == second["id"]

        one = f"/v1/projects/{project['id']}"
        http.patch(one, json={"is_archived": True, "webhook": {"secret": None}}).raise_for_status()
        third = ask(http, conversation=into)
        _, arrived = projects.wait_for(2)
        assert arrived.unwrap(client, own_secret(http)).data.id == third["id"]

        http.delete(one).raise_for_status()
        ask(http, conversation=into)
        last = ask(http, conversation=into, webhook=own.url)
        _, arrived = own.wait_for(2)
        assert arrived.unwrap(client, own_secret(http)).data.id == last["id"]
        assert len(projects.received) == 2


@pytest.mark.requirement("responses.webhooks.guard")
@pytest.mark.parametrize("target", HOSTILE)
def test_a_webhook_to_where_nobody_may_be_sent_is_refused(http: httpx.Client, target: str) -> None:
    asked = {"model": SIMULATED, "input": "x", "background": True, "webhook": target}
    told = {"name": "Sea", "webhook": {"url": target}}
    for path, body, param in (
        ("/v1/responses", asked, "webhook"),
        ("/v1/projects", told, "webhook.url"),
    ):
        refused = http.post(path, json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == param
    assert http.get("/v1/projects").json()["data"] == []
