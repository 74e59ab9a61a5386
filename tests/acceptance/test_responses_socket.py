"""The WebSocket at /v1/responses, with a real client of another make."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from cli.launch import LaunchedServer
from tests.acceptance.conftest import SCRIPTED, SIMULATED


@contextmanager
def opened(server: LaunchedServer, key: str) -> Iterator[ClientConnection]:
    url = server.url.replace("http://", "ws://") + "/responses"
    with connect(url, additional_headers={"Authorization": f"Bearer {key}"}) as socket:
        yield socket


def ask(socket: ClientConnection, **body: Any) -> None:
    socket.send(json.dumps({"type": "response.create", "model": SIMULATED, **body}))


def read(socket: ClientConnection) -> list[dict[str, Any]]:
    """The events of a response, or the one error."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] not in (
        "response.completed",
        "response.failed",
        "response.incomplete",
        "error",
    ):
        events.append(json.loads(socket.recv(timeout=20)))
    return events


@pytest.mark.requirement("responses.socket")
def test_responses_follow_each_other_on_one_connection(
    server: LaunchedServer, api_key: str
) -> None:
    with opened(server, api_key) as socket:
        for text in ("one", "two"):
            ask(socket, input=text)
            events = read(socket)
            assert events[-1]["type"] == "response.completed"
            numbers = [event["sequence_number"] for event in events]
            assert numbers == list(range(len(events)))


@pytest.mark.requirement("responses.socket")
def test_what_is_not_stored_is_gone_on_with_on_the_same_connection(
    server: LaunchedServer, api_key: str, client: openai.OpenAI
) -> None:
    with opened(server, api_key) as socket:
        ask(socket, input="Remember nine.", store=False)
        first = read(socket)[-1]["response"]
        ask(socket, input="What was it?", store=False, previous_response_id=first["id"])
        second = read(socket)[-1]["response"]
    assert second["previous_response_id"] == first["id"]
    alone = client.responses.create(model=SIMULATED, input="What was it?", store=False)
    assert alone.usage is not None
    assert second["usage"]["input_tokens"] > alone.usage.input_tokens + 5


@pytest.mark.requirement("responses.socket")
def test_what_is_wrong_is_told_and_the_connection_goes_on(
    server: LaunchedServer, api_key: str
) -> None:
    with opened(server, api_key) as socket:
        for body, param in (
            ({"input": "x", "temperature": 9}, "temperature"),
            ({"input": "x", "stream": True}, "stream"),
        ):
            ask(socket, **body)
            (error,) = read(socket)
            assert error["status"] == 400
            assert error["error"]["param"] == param
        socket.send("no JSON")
        assert read(socket)[0]["error"]["code"] == "invalid_json"
        ask(socket, input="x")
        assert read(socket)[-1]["type"] == "response.completed"


@pytest.mark.requirement("responses.socket")
def test_a_second_response_has_to_wait_for_the_first(server: LaunchedServer, api_key: str) -> None:
    with opened(server, api_key) as socket:
        ask(socket, model=SCRIPTED, input="Tell a story.")
        assert json.loads(socket.recv(timeout=20))["type"] == "response.created"
        ask(socket, input="Me too.")
        events = [json.loads(socket.recv(timeout=20))]
        while events[-1]["type"] != "error":
            events.append(json.loads(socket.recv(timeout=20)))
        assert events[-1]["error"]["code"] == "response_in_progress"
        assert read(socket)[-1]["type"] == "response.completed"


@pytest.mark.requirement("responses.socket")
def test_nobody_gets_in_without_a_credential(server: LaunchedServer) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(server, "sk_wrong"):
        pass
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
