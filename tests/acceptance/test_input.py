"""Input that is wrong, large or hostile: a precise error, and the server goes on."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from cli.launch import LaunchedServer
from tests.acceptance.conftest import SIMULATED

ASK: dict[str, Any] = {"model": SIMULATED, "messages": [{"role": "user", "content": "Hello."}]}
CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error in the one envelope."""
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert {"type", "code", "message", "param", "request_id"} <= set(error)
    assert error["message"]
    assert error["request_id"] == response.headers["x-request-id"]
    return error


@pytest.mark.requirement("input.json", "errors.envelope")
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"null", b"{'a': 1}", b'{"model": }', b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "cut", "list", "string", "null", "quotes", "hole", "binary", "deep"],
)
def test_a_body_that_is_no_json_object_is_refused(http: httpx.Client, body: bytes) -> None:
    response = http.post(CHAT, content=body, headers=JSON)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


@pytest.mark.requirement("input.types", "errors.invalid")
@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": 5}]}, None),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0]"),
        ({"model": 5}, "model"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 9}, "temperature"),
        ({"n": 0}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"tools": {}}, "tools"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"response_format": {"type": "poem"}}, "response_format"),
        ({"stream_options": 1}, "stream_options"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_a_wrong_field_is_named(
    http: httpx.Client, change: dict[str, Any], param: str | None
) -> None:
    response = http.post(CHAT, json={**ASK, **change})
    assert response.status_code == 400
    named = error_of(response)["param"]
    assert named.startswith(param or "messages[1].content")


@pytest.mark.requirement("input.types")
@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(http: httpx.Client, missing: str) -> None:
    body = {name: value for name, value in ASK.items() if name != missing}
    response = http.post(CHAT, json=body)
    assert response.status_code == 400
    assert error_of(response)["param"] == missing


@pytest.mark.requirement("input.large")
def test_a_body_over_the_limit_is_refused(http: httpx.Client) -> None:
    response = http.post(CHAT, content=b'{"model":"' + b"x" * (30 << 20) + b'"}', headers=JSON)
    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"


@pytest.mark.requirement("input.large")
def test_a_body_without_a_length_is_limited_too(server: LaunchedServer, api_key: str) -> None:
    def endless() -> Iterator[bytes]:
        yield b'{"model":"'
        for _ in range(30):
            yield b"x" * (1 << 20)

    headers = {"Authorization": f"Bearer {api_key}", **JSON}
    response = httpx.post(
        f"{server.url}/chat/completions", content=endless(), headers=headers, timeout=30
    )
    assert response.status_code == 413


@pytest.mark.requirement("input.many_messages")
def test_ten_thousand_messages_are_refused_by_name(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": f"line {index}"} for index in range(10_000)]
    response = http.post(CHAT, json={"model": SIMULATED, "messages": messages})
    assert response.status_code == 400
    assert error_of(response)["param"] == "messages"


@pytest.mark.requirement("input.many_messages")
def test_a_long_history_is_served(http: httpx.Client) -> None:
    messages = [
        {"role": "user" if index % 2 == 0 else "assistant", "content": f"line {index} " * 20}
        for index in range(4001)
    ]
    response = http.post(CHAT, json={"model": SIMULATED, "messages": messages, "max_tokens": 4})
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"]


@pytest.mark.requirement("input.unicode")
@pytest.mark.parametrize(
    "escaped",
    [r"a\u0000b", r"a\ud800b", r"\udfff\ud800", r"\u2028\u2029\ufeff", r"\ud83d\ude00 ok"],
    ids=["nul", "high", "swapped", "separators", "pair"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_odd_characters_are_never_a_fault_of_ours(
    http: httpx.Client, escaped: str, stream: bool
) -> None:
    body = (
        f'{{"model":"{SIMULATED}","stream":{json.dumps(stream)},'
        f'"messages":[{{"role":"user","content":"{escaped}"}}]}}'
    )
    response = http.post(CHAT, content=body.encode(), headers=JSON)
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        error_of(response)


@pytest.mark.requirement("input.unicode")
@pytest.mark.parametrize("model", [r"\u0000", r"\ud800", "a" * 10_000, "../../x", "a.b.>", "*"])
def test_odd_model_names_are_not_found(http: httpx.Client, model: str) -> None:
    body = f'{{"model":"{model}","messages":[{{"role":"user","content":"x"}}]}}'
    response = http.post(CHAT, content=body.encode(), headers=JSON)
    assert response.status_code in (400, 404)
    error_of(response)


def raw_exchange(url: str, request: bytes) -> bytes:
    """Send bytes as they are; returns what comes back until the server closes."""
    target = urlsplit(url)
    with socket.create_connection((target.hostname, target.port), timeout=10) as connection:
        try:
            connection.sendall(request)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        except ConnectionError:
            return b""
        return answer


@pytest.mark.requirement("input.headers")
@pytest.mark.parametrize(
    "headers",
    [
        b"X-Bomb: " + b"a" * (1 << 20) + b"\r\n",
        b"".join(b"X-%d: y\r\n" % index for index in range(100_000)),
        b"no colon at all\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ],
    ids=["long", "many", "malformed", "negative", "smuggled"],
)
def test_header_bombs_are_refused(
    server: LaunchedServer, http: httpx.Client, headers: bytes
) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    answer = raw_exchange(server.url, head + headers + b"\r\n")
    assert not answer or b"HTTP/1.1 4" in answer[:20]
    assert http.get("/healthz").status_code == 200


@pytest.mark.requirement("errors.envelope")
@pytest.mark.parametrize("path", ["/v1/nothing", "/nothing", "/v1", "/v1/chat", "/v1/../etc"])
def test_an_unknown_route_is_told_in_the_envelope(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    assert response.status_code == 404
    assert error_of(response)["type"] == "invalid_request_error"
