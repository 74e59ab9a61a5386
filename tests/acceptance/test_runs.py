"""Runs: read again, read by several, repeated under a key, owned."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from cli.launch import LaunchedServer
from tests.acceptance.conftest import FAILOVER, SCRIPTED, SIMULATED
from tests.support.server import http_client
from tests.support.sse import Received, read_events
from tests.support.upstream_process import UpstreamProcess

CHAT = "/v1/chat/completions"


def order(text: str, **more: object) -> dict[str, Any]:
    """A streamed request."""
    message = {"role": "user", "content": text}
    return {"model": SIMULATED, "messages": [message], "stream": True, **more}


def read(http: httpx.Client, method: str, url: str, **request: Any) -> Received:
    """Read a whole stream."""
    with http.stream(method, url, **request) as response:
        assert response.status_code == 200, response.read()
        return Received(list(read_events(response)), response.headers["x-run-id"])


def public_id(run_id: str) -> str:
    """The id that the client knows a chat completion by."""
    return run_id.replace("run_", "chatcmpl-")


@pytest.mark.requirement("runs.resume")
@pytest.mark.parametrize("by", ["header", "query"])
def test_a_stream_is_read_on_from_where_it_stood(
    server: LaunchedServer, api_key: str, http: httpx.Client, by: str
) -> None:
    whole = read(http, "POST", CHAT, json=order("Tell me of the sea."))
    assert whole.whole
    last = whole.ids[len(whole.ids) // 2]
    path = f"{CHAT}/{public_id(whole.run_id)}/stream"
    with http_client(server.edges[-1], api_key) as other_edge:
        if by == "header":
            rest = read(other_edge, "GET", path, headers={"Last-Event-ID": str(last)})
        else:
            rest = read(other_edge, "GET", path, params={"starting_after": last})
    expected = [(event.id, event.data) for event in whole.events if event.id > last]
    assert [(event.id, event.data) for event in rest.events] == expected


@pytest.mark.requirement("runs.resume.readers")
def test_several_readers_get_the_same_stream(
    server: LaunchedServer, api_key: str, http: httpx.Client
) -> None:
    with http.stream("POST", CHAT, json=order("Count the waves.")) as response:
        first = Received(run_id=response.headers["x-run-id"])
        path = f"{CHAT}/{public_id(first.run_id)}/stream"

        def read_along(url: str) -> Received:
            with http_client(url, api_key) as other:
                return read(other, "GET", path)

        with ThreadPoolExecutor() as pool:
            others = [pool.submit(read_along, url) for url in server.edges * 2]
            first.events += read_events(response)
            followers = [other.result(60) for other in others]
    assert first.whole
    for follower in followers:
        assert [(event.id, event.data) for event in follower.events] == [
            (event.id, event.data) for event in first.events
        ]


@pytest.mark.requirement("runs.owner")
def test_a_run_of_somebody_else_answers_as_a_missing_one(
    server: LaunchedServer, http: httpx.Client
) -> None:
    run_id = read(http, "POST", CHAT, json=order("A secret.")).run_id
    mine = public_id(run_id)
    missing = mine[:-4] + ("aaaa" if mine[-4:] != "aaaa" else "bbbb")
    with http_client(server.url) as stranger:
        token = stranger.post("/auth/guest").json()["access_token"]
        stranger.headers["Authorization"] = f"Bearer {token}"
        answers = [
            (response.status_code, response.json()["error"]["message"].replace(one, "ID"))
            for one in (mine, missing)
            for response in (
                stranger.get(f"{CHAT}/{one}/stream"),
                stranger.post(f"{CHAT}/{one}/cancel"),
            )
        ]
    assert {status for status, _ in answers} == {404}
    assert answers[:2] == answers[2:]


@pytest.mark.requirement("runs.idempotency.conflict")
def test_a_key_with_another_body_conflicts(http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "conflict-1"}
    assert read(http, "POST", CHAT, json=order("One."), headers=headers).whole
    response = http.post(CHAT, json=order("Another."), headers=headers)
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "idempotency_conflict"


@pytest.mark.requirement("runs.idempotency", "runs.idempotency.after")
def test_a_repeat_reads_the_same_run(
    server: LaunchedServer, api_key: str, http: httpx.Client
) -> None:
    headers = {"Idempotency-Key": "repeat-1"}
    started = threading.Barrier(4)

    def ask(url: str) -> Received:
        with http_client(url, api_key) as one:
            started.wait(10)
            return read(one, "POST", CHAT, json=order("Only once."), headers=headers)

    with ThreadPoolExecutor() as pool:
        together = [one.result(60) for one in [pool.submit(ask, url) for url in server.edges * 2]]
    after = read(http, "POST", CHAT, json=order("Only once."), headers=headers)
    assert after.whole
    for received in together:
        assert received.run_id == after.run_id
        assert [(event.id, event.data) for event in received.events] == [
            (event.id, event.data) for event in after.events
        ]


@pytest.mark.requirement("runs.idempotency.after")
def test_a_repeat_after_the_end_gives_the_same_body(http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "repeat-2"}
    body = order("Once more.", stream=False)
    first = http.post(CHAT, json=body, headers=headers)
    second = http.post(CHAT, json=body, headers=headers)
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert first.headers["x-run-id"] == second.headers["x-run-id"]


@pytest.mark.requirement("runs.idempotency")
def test_requests_under_one_key_call_the_upstream_once(
    server: LaunchedServer, api_key: str, upstream: UpstreamProcess
) -> None:
    headers = {"Idempotency-Key": "once-1"}
    body = order("One call for all.", model=SCRIPTED)
    started = threading.Barrier(6)

    def ask(url: str) -> Received:
        with http_client(url, api_key) as one:
            started.wait(10)
            return read(one, "POST", CHAT, json=body, headers=headers)

    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(ask, url) for url in server.edges * 3]
        received = [one.result(60) for one in asked]
    assert len({tuple(event.data for event in one.events) for one in received}) == 1
    assert received[0].whole
    assert len(upstream.calls("One call for all.")) == 1


@pytest.mark.requirement("runs.disconnect")
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_closes_the_upstreams_request(
    server: LaunchedServer, api_key: str, upstream: UpstreamProcess, stream: bool
) -> None:
    text = f"Nobody waits for this {stream}."
    body = json.dumps(order(f"{text}\n!tokens 5000\n!stall 50", model=SCRIPTED, stream=stream))
    target = urlsplit(server.url)
    with socket.create_connection((target.hostname, target.port), timeout=20) as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api_key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        upstream.call(text)
        if stream:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        left = time.time()
    assert upstream.closed_call(text)["closed_at"] - left < 0.2


@pytest.mark.requirement("runs.cancel")
def test_a_cancel_closes_the_upstreams_request(
    http: httpx.Client, upstream: UpstreamProcess
) -> None:
    body = order("Stop me.\n!tokens 5000", model=SCRIPTED)
    with http.stream("POST", CHAT, json=body) as response:
        events = read_events(response)
        received = Received([next(events)], response.headers["x-run-id"])
        asked = time.time()
        cancelled = http.post(f"{CHAT}/{public_id(received.run_id)}/cancel")
        assert cancelled.status_code == 200
        received.events += events
    assert upstream.closed_call("Stop me.")["closed_at"] - asked < 0.2
    again = http.post(f"{CHAT}/{public_id(received.run_id)}/cancel")
    assert again.status_code == 200
    assert again.json()["status"] == "cancelled"


@pytest.mark.requirement("runs.failover")
@pytest.mark.parametrize("stream", [True, False])
def test_another_deployment_answers_when_the_first_fails(http: httpx.Client, stream: bool) -> None:
    response = http.post(CHAT, json=order("Who answers?", model=FAILOVER, stream=stream))
    assert response.status_code == 200, response.text
    if stream:
        assert response.text.rstrip().endswith("data: [DONE]")
    else:
        assert response.json()["model"] == FAILOVER


@pytest.mark.requirement("runs.slow_reader")
def test_a_reader_that_stops_reading_stalls_nobody(
    server: LaunchedServer, api_key: str, http: httpx.Client
) -> None:
    edge = psutil.Process(server.process("edge-1").pid)
    before = edge.memory_info().rss
    long = order("A long story.\n!tokens 20000\n!pace 0", model=SCRIPTED)
    with http_client(server.url, api_key) as slow, ExitStack() as stack:
        for _ in range(5):
            response = stack.enter_context(slow.stream("POST", CHAT, json=long))
            next(read_events(response))  # and no more
        for _ in range(5):
            assert read(http, "POST", CHAT, json=order("A short one.")).whole
        whole = read(http, "POST", CHAT, json=long)
        assert whole.whole
        grown = edge.memory_info().rss - before
    assert grown < 64 << 20  # five whole stories, and their copies, would be more
