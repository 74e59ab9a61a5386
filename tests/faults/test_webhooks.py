"""kill -9 of those who send webhooks: they are sent until they arrive."""

import signal

import httpx
import pytest

from cli.launch import LaunchedServer
from tests.faults.conftest import Start
from tests.support.receiver import receiving
from tests.support.server import eventually, http_client, openai_client

PROVIDERS = """
providers:
  - name: simulated
    kind: simulated
    options: {seed: 1, ttft_ms: 1, token_ms: 1, cues: true}
    models:
      - {id: cued, capabilities: [chat]}
"""
ENV = {"JAN_OUTBOUND_ALLOW": "127.0.0.1"}


def ask(http: httpx.Client, said: str, url: str) -> str:
    asked = {"model": "cued", "input": said, "background": True, "webhook": url}
    response_id: str = http.post("/v1/responses", json=asked).raise_for_status().json()["id"]
    return response_id


def kill_and_wait(server: LaunchedServer, name: str) -> None:
    """Kill a process, and wait until its successor is ready."""
    before = server.process(name).pid
    server.kill(name, signal.SIGKILL)
    eventually(
        lambda: [
            found
            for found in server.processes()
            if found.name == name and found.pid != before and found.state == "ready"
        ]
    )


@pytest.mark.requirement("faults.webhooks")
@pytest.mark.timeout(180)
def test_a_webhook_outlives_the_workers_that_send_it(start: Start) -> None:
    with receiving(503, 0) as receiver, start(providers=PROVIDERS, env=ENV) as case:
        with http_client(case.server.url, case.key) as http:
            response_id = ask(http, "Go on.", receiver.url)
            receiver.wait_for(1)
            kill_and_wait(case.server, "tools-1")  # while it pauses
            receiver.wait_for(2)
            kill_and_wait(case.server, "tools-1")  # while it waits for the answer
            tries = receiver.wait_for(3, timeout=90)
            secret = http.get("/v1/webhooks/secret").json()["secret"]
        client = openai_client(case.server.url, case.key)
        told = [one.unwrap(client, secret) for one in tries]
    assert len({event.id for event in told}) == 1
    assert {event.data.id for event in told} == {response_id}


@pytest.mark.requirement("responses.webhooks.queue")
@pytest.mark.timeout(120)
def test_a_response_that_is_cancelled_in_the_queue_tells_so_once(start: Start) -> None:
    env = ENV | {"JAN_SLOTS": "1"}
    with receiving() as receiver, start(providers=PROVIDERS, env=env) as case:
        with http_client(case.server.url, case.key) as http:
            first = ask(http, "!stall 2", receiver.url)
            eventually(lambda: status_of(http, first) == "in_progress")
            second = ask(http, "Go on.", receiver.url)
            for response_id in (second, first):
                http.post(f"/v1/responses/{response_id}/cancel").raise_for_status()
            receiver.wait_for(2)
            last = ask(http, "Go on.", receiver.url)
            arrived = receiver.wait_for(3)
            assert status_of(http, second) == "cancelled"
            secret = http.get("/v1/webhooks/secret").json()["secret"]
        client = openai_client(case.server.url, case.key)
        told = {
            event.data.id: event.type for event in (one.unwrap(client, secret) for one in arrived)
        }
    assert told == {
        first: "response.cancelled",
        second: "response.cancelled",
        last: "response.completed",
    }


def status_of(http: httpx.Client, response_id: str) -> str:
    status: str = http.get(f"/v1/responses/{response_id}").raise_for_status().json()["status"]
    return status
