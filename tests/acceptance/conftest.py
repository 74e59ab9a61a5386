"""One server for all acceptance tests: two edges, the simulated model, a scripted upstream."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from cli.launch import LaunchedServer
from tests.support.server import http_client, openai_client, running_server
from tests.support.upstream_process import UpstreamProcess, running_upstream

SIMULATED = "jan-simulated"
SLASHED = "vendor/family/model"
SCRIPTED = "scripted"
CLAUDE = "claude"  # its upstream speaks Messages
FAILOVER = "failover"  # its first deployment can't be reached

PROVIDERS = """
providers:
  - name: simulated
    kind: simulated
    options: {seed: 1, ttft_ms: 10, token_ms: 3}
    models:
      - id: jan-simulated
        capabilities: [chat, completions, embeddings, tools, vision, json_schema]
      - {id: vendor/family/model, capabilities: [chat]}
  - name: broken
    kind: openai
    base_url: http://127.0.0.1:CLOSED_PORT/v1
    models:
      - {id: failover, capabilities: [chat], priority: 0}
  - name: scripted
    kind: openai
    base_url: UPSTREAM
    models:
      - id: scripted
        served_name: test-model
        capabilities: [chat, completions, embeddings, tools, vision, json_schema]
      - {id: failover, served_name: test-model, capabilities: [chat], priority: 1}
  - name: anthropic
    kind: anthropic
    base_url: MESSAGES
    api_key: sk-ant-1
    models:
      - {id: claude, capabilities: [chat, tools, vision, json_schema]}
"""


@pytest.fixture(scope="session")
def upstream() -> Iterator[UpstreamProcess]:
    """The scripted upstream: a token every 20 ms."""
    with running_upstream(ttft_ms=5, token_ms=20) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def anthropic_upstream() -> Iterator[UpstreamProcess]:
    """The scripted upstream that speaks Messages."""
    with running_upstream(ttft_ms=5, token_ms=5, module="anthropic_upstream") as upstream:
        yield upstream


@pytest.fixture(scope="session")
def closed_port() -> Iterator[int]:
    """A port where connections are refused: taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    upstream: UpstreamProcess,
    anthropic_upstream: UpstreamProcess,
    closed_port: int,
) -> Iterator[LaunchedServer]:
    """The server; a test that breaks something starts its own."""
    file: Path = tmp_path_factory.mktemp("providers") / "providers.yaml"
    text = PROVIDERS.replace("CLOSED_PORT", str(closed_port))
    text = text.replace("UPSTREAM", upstream.base_url)
    file.write_text(text.replace("MESSAGES", anthropic_upstream.base_url))
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
