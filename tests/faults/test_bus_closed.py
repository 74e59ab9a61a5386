"""The bus ends a process's connection for good: the process ends too, and is started again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.launch import LaunchedServer
from tests.support.bus_proxy import BusProxy, proxied_nats
from tests.support.server import eventually, openai_client, running_server

PROVIDERS = """
providers:
  - name: steady
    kind: simulated
    options: {seed: 7, ttft_ms: 20, token_ms: 25, tokens: 160}
    models:
      - {id: steady, capabilities: [chat]}
  - name: quick
    kind: simulated
    options: {seed: 1, ttft_ms: 1, token_ms: 1}
    models:
      - {id: quick, capabilities: [chat, tools]}
"""
NAMES = ["edge-1", "inference-1", "responses-1", "tools-1", "persistence-1"]


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusProxy]:
    with proxied_nats(tmp_path_factory.mktemp("nats")) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def server(bus: BusProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedServer]:
    file: Path = tmp_path_factory.mktemp("providers") / "providers.yaml"
    file.write_text(PROVIDERS)
    with running_server("--providers", str(file), env={"JAN_NATS_URL": bus.url}) as server:
        yield server


def answers(server: LaunchedServer, key: str) -> None:
    """Every kind of process does its part."""
    client = openai_client(server.url, key)
    response = client.responses.create(
        model="quick",
        input="Hello",
        tools=[{"type": "mcp", "server_label": "jan", "require_approval": "never"}],
    )
    assert response.output_text
    assert client.responses.retrieve(response.id).output_text == response.output_text


def until_started_again(server: LaunchedServer, name: str, pid: int) -> None:
    eventually(
        lambda: server.process(name).pid != pid and server.process(name).state == "ready",
        timeout=60,
    )


@pytest.mark.requirement("faults.bus.closed")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", NAMES)
def test_a_process_that_the_bus_hangs_up_on_is_started_again(
    server: LaunchedServer, bus: BusProxy, name: str
) -> None:
    key = server.create_key()
    answers(server, key)
    before = server.process(name).pid
    bus.garble(name)
    until_started_again(server, name, before)
    answers(server, key)
    log = server.log.read_text()
    assert "the bus has ended the connection: nats: unknown protocol operation" in log
    assert f"{name} ended with code 1: it is started again" in log


@pytest.mark.requirement("faults.bus.closed")
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "error",
    [
        "Authorization Violation",
        "User Authentication Expired",
        "Maximum Payload Violation",
        "maximum connections exceeded",
        "Secure Connection - TLS Required",
    ],
)
def test_whatever_the_bus_hangs_up_for(server: LaunchedServer, bus: BusProxy, error: str) -> None:
    before = server.process("edge-1").pid
    bus.accuse("edge-1", error)
    until_started_again(server, "edge-1", before)
    answers(server, server.create_key())


@pytest.mark.requirement("faults.bus.closed")
@pytest.mark.timeout(120)
def test_a_stream_outlives_a_worker_that_the_bus_hangs_up_on(
    server: LaunchedServer, bus: BusProxy
) -> None:
    client = openai_client(server.url, server.create_key())
    before = server.process("inference-1").pid
    texts = []
    for hang_up in (False, True):
        said = client.chat.completions.create(
            model="steady", messages=[{"role": "user", "content": "Go on."}], stream=True
        )
        text = ""
        for number, chunk in enumerate(said):
            text += chunk.choices[0].delta.content or ""
            if hang_up and number == 20:
                bus.garble("inference-1")
        texts.append(text)
    assert texts[0] == texts[1]
    until_started_again(server, "inference-1", before)


@pytest.mark.requirement("faults.bus.closed")
@pytest.mark.timeout(120)
def test_heartbeats_that_the_bus_hangs_up_on_go_on(server: LaunchedServer, bus: BusProxy) -> None:
    for name in ("inference-1", "responses-1", "tools-1"):
        pid, before = server.process(name).pid, bus.connections(f"{name}-heartbeat")
        bus.garble(f"{name}-heartbeat")
        eventually(lambda: bus.connections(f"{name}-heartbeat") > before)  # noqa: B023
        assert server.process(name).pid == pid
    answers(server, server.create_key())


@pytest.mark.requirement("faults.bus.closed")
@pytest.mark.timeout(120)
def test_a_stale_connection_is_made_anew_in_place(server: LaunchedServer, bus: BusProxy) -> None:
    before = {name: server.process(name).pid for name in NAMES}
    for name in NAMES:
        bus.accuse(name, "Stale Connection")
    eventually(lambda: server.log.read_text().count("the bus is back") >= len(NAMES))
    answers(server, server.create_key())
    assert {name: server.process(name).pid for name in NAMES} == before
