"""Webhooks of responses in the background: signed, and sent again until they arrive."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.acceptance.conftest import SIMULATED
from tests.support.server import http_client, openai_client, running_server

PROVIDERS = """
providers:
  - name: simulated
    kind: simulated
    options: {seed: 1, ttft_ms: 1, token_ms: 1}
    models:
      - {id: jan-simulated, capabilities: [chat]}
"""


class Receiver(ThreadingHTTPServer):
    """A client's server: refuses the first try, takes what comes then."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[tuple[dict[str, str], str]] = []
        self.arrived = threading.Event()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.received.append((dict(self.headers), body))
        first = len(self.server.received) == 1
        self.send_response(500 if first else 204)
        self.end_headers()
        if not first:
            self.server.arrived.set()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    with Receiver() as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        yield receiver
        receiver.shutdown()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server whose tools may reach this machine, and a key."""
    file: Path = tmp_path_factory.mktemp("providers") / "providers.yaml"
    file.write_text(PROVIDERS)
    env = {"JAN_OUTBOUND_ALLOW": "127.0.0.1"}
    with running_server("--providers", str(file), env=env) as server:
        yield server.url, server.create_key()


@pytest.mark.requirement("responses.webhooks")
def test_a_webhook_is_signed_and_sent_until_it_arrives(served: tuple[str, str]) -> None:
    url, key = served
    with receiving() as receiver, http_client(url, key) as http:
        target = f"http://127.0.0.1:{receiver.server_address[1]}/hook"
        asked = {"model": SIMULATED, "input": "Go on.", "background": True, "webhook": target}
        response = http.post("/v1/responses", json=asked).raise_for_status().json()
        assert response["status"] == "queued"
        assert receiver.arrived.wait(30)
        secret = http.get("/v1/webhooks/secret").raise_for_status().json()["secret"]
    (first, _), (headers, body) = receiver.received[:2]
    assert first["webhook-id"] == headers["webhook-id"]
    client: openai.OpenAI = openai_client(url, key)
    event = client.webhooks.unwrap(body, headers, secret=secret)
    assert event.type == "response.completed"
    assert event.data.id == response["id"]
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body + " ", headers, secret=secret)


@pytest.mark.requirement("responses.webhooks")
@pytest.mark.parametrize("target", ["ftp://example.com/x", "example.com", ""])
def test_what_is_no_address_is_refused(served: tuple[str, str], target: str) -> None:
    url, key = served
    with http_client(url, key) as http:
        asked = {"model": SIMULATED, "input": "x", "background": True, "webhook": target}
        refused: httpx.Response = http.post("/v1/responses", json=asked)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "webhook"
