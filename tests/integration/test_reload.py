"""An edit of the providers file while the whole server runs: noticed, checked, in effect."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli.launch import LaunchedServer
from tests.support.server import eventually, http_client, running_server

FILE = """
providers:
  - name: first
    kind: simulated
    models: [{id: one, capabilities: [chat]}]
"""
MORE = """
  - name: second
    kind: simulated
    models: [{id: two, capabilities: [chat]}]
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("providers") / "providers.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[LaunchedServer]:
    with running_server("--providers", str(file)) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: LaunchedServer) -> Iterator[httpx.Client]:
    with http_client(server.url, server.create_key("--scope", "admin")) as client:
        yield client


def models(http: httpx.Client) -> set[str]:
    return {model["id"] for model in http.get("/v1/models").json()["data"]}


def chat(http: httpx.Client, model: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    return http.post("/v1/chat/completions", json=body).status_code


def said(server: LaunchedServer, words: str) -> list[str]:
    return [line for line in server.last_lines(500).splitlines() if words in line]


@pytest.mark.requirement("routing.reload")
def test_a_provider_that_is_added_gets_its_queues_and_is_served(
    server: LaunchedServer, http: httpx.Client, file: Path
) -> None:
    assert models(http) == {"one"}
    file.write_text(FILE + MORE)
    eventually(lambda: models(http) == {"one", "two"})
    assert chat(http, "two") == 200
    shown = http.get("/v1/admin/providers").json()["data"]
    assert {one["id"]: one["pool"] for one in shown} == {
        "first/one": "first",
        "second/two": "second",
    }
    assert b"deployment second/two" in server.jan("doctor").stdout


@pytest.mark.requirement("routing.reload")
def test_a_wrong_edit_is_one_line_that_names_its_place_and_the_old_goes_on(
    server: LaunchedServer, http: httpx.Client, file: Path
) -> None:
    before = models(http)
    file.write_text(FILE.replace("kind: simulated", "kind: simulatd"))
    told = eventually(lambda: said(server, "the providers stay as they were"))
    assert f"{file}:4: providers[0].kind" in told[0]
    assert chat(http, "one") == 200
    assert models(http) == before
    file.write_text(FILE)
    eventually(lambda: models(http) == {"one"})
    assert len(said(server, "the providers stay as they were")) == 1
