"""One server for all acceptance tests: two edges, the simulated model, a scripted upstream."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from cli.launch import LaunchedServer
from tests.support.server import http_client, openai_client, running_server

SIMULATED = "jan-simulated"
SLASHED = "vendor/family/model"

PROVIDERS = f"""
providers:
  - name: simulated
    kind: simulated
    options: {{seed: 1, ttft_ms: 10, token_ms: 3}}
    models:
      - {{id: {SIMULATED}, capabilities: [chat, completions, embeddings, tools, json_schema]}}
      - {{id: {SLASHED}, capabilities: [chat]}}
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedServer]:
    """The server; a test that breaks something starts its own."""
    file: Path = tmp_path_factory.mktemp("providers") / "providers.yaml"
    file.write_text(PROVIDERS)
    with running_server("--providers", str(file), "--edges", "2") as server:
        yield server


@pytest.fixture(scope="session")
def api_key(server: LaunchedServer) -> str:
    """An API key without limits."""
    return server.create_key("--name", "acceptance")


@pytest.fixture
def client(server: LaunchedServer, api_key: str) -> Iterator[openai.OpenAI]:
    """The SDK at the first edge."""
    with openai_client(server.url, api_key) as client:
        yield client


@pytest.fixture
def http(server: LaunchedServer, api_key: str) -> Iterator[httpx.Client]:
    """A plain client at the first edge, with the key; its paths begin at the root."""
    with http_client(server.url, api_key) as client:
        yield client
