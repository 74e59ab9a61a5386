"""An edge on a real bus over a real socket: credentials, guests, health, hostile bytes, its end."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from bus.buckets import Bucket
from bus.opening import open_bus
from edge.server import serve
from schemas import subjects
from schemas.errors import JanError
from schemas.keys import KeyLimits
from tests.support.edge import edge_settings, put_key, running_edge, store_key
from tests.support.nats import NatsServer, migrate

HELLO = {"model": "jan-simulated", "messages": [{"role": "user", "content": "hello"}]}
CHAT = "/v1/chat/completions"


@pytest_asyncio.fixture
async def bus(nats: NatsServer) -> NatsServer:
    """The server with its streams and buckets."""
    await migrate(nats)
    return nats


@pytest_asyncio.fixture
async def client(bus: NatsServer, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one edge."""
    settings = edge_settings(bus, tmp_path, guest_creations=5, max_body=100_000)
    async with (
        running_edge(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as open_client,
    ):
        yield open_client


def code_of(response: httpx.Response) -> str | None:
    error = response.json()["error"]
    assert set(error) >= {"type", "code", "message", "param", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    return error["code"]


async def eventually(client: httpx.AsyncClient, path: str, status: int, **headers: str) -> float:
    """Ask until the answer has this status; return how long it took."""
    started = time.monotonic()
    async with asyncio.timeout(30):
        while (await client.get(path, headers=headers)).status_code != status:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # nothing tells a client when to ask again
    return time.monotonic() - started


async def new_guest(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.post("/auth/guest-login")
    assert response.status_code == 201
    return dict(response.json())


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_a_guest_comes_in_and_may_ask(client: httpx.AsyncClient) -> None:
    guest = await new_guest(client)
    assert guest["user_id"] == guest["principal_id"]
    assert (guest["token_type"], guest["expires_in"]) == ("Bearer", 3600)
    response = await client.get("/v1/models", headers=bearer(guest["access_token"]))
    assert [model["id"] for model in response.json()["data"]] == ["jan-tiny", "jan-simulated"]
    assert response.headers["x-principal-id"] == guest["principal_id"]
    assert response.headers["x-auth-method"] == "jwt"
    assert response.headers["x-ratelimit-limit-requests"] == "60"
    me = (await client.get("/auth/me", headers=bearer(guest["access_token"]))).json()
    assert (me["id"], me["is_guest"], me["roles"]) == (guest["user_id"], True, ["guest"])


async def test_a_refresh_token_works_once_and_its_reuse_ends_the_session(
    client: httpx.AsyncClient,
) -> None:
    guest = await new_guest(client)

    async def refresh(token: str) -> httpx.Response:
        return await client.post("/auth/refresh-token", json={"refresh_token": token})

    renewed = (await refresh(guest["refresh_token"])).json()
    await eventually(client, "/auth/me", 200, **bearer(renewed["access_token"]))
    assert code_of(await refresh(guest["refresh_token"])) == "refresh_token_reused"
    assert code_of(await refresh(renewed["refresh_token"])) == "invalid_refresh_token"
    response = await client.get("/auth/me", headers=bearer(renewed["access_token"]))
    assert code_of(response) == "token_revoked"


async def test_of_two_refreshes_at_once_one_wins_at_most(client: httpx.AsyncClient) -> None:
    token = (await new_guest(client))["refresh_token"]
    answers = await asyncio.gather(
        *(client.post("/auth/refresh-token", json={"refresh_token": token}) for _ in range(5))
    )
    assert [answer.status_code for answer in answers].count(200) <= 1
    assert {answer.status_code for answer in answers} <= {200, 401}


@pytest.mark.parametrize(
    "token", ["", "rt_", "rt_a.b.c", "rt_ses_" + "0" * 26 + ".a.b", "rt_ses_*.a.b", "x"]
)
async def test_an_unknown_refresh_token_is_refused(client: httpx.AsyncClient, token: str) -> None:
    response = await client.post("/auth/refresh-token", json={"refresh_token": token})
    assert (response.status_code, code_of(response)) == (401, "invalid_refresh_token")


async def test_a_guessed_session_cannot_be_ended(client: httpx.AsyncClient) -> None:
    guest = await new_guest(client)
    session = guest["refresh_token"].split(".")[0]
    for path in ("/auth/refresh-token", "/auth/logout"):
        await client.post(path, json={"refresh_token": f"{session}.guess.guess"})
    response = await client.get("/auth/me", headers=bearer(guest["access_token"]))
    assert response.status_code == 200


@pytest.mark.parametrize("by", ["refresh_token", "access_token"])
async def test_a_logout_is_felt_on_every_edge_within_a_second(
    client: httpx.AsyncClient, bus: NatsServer, tmp_path: Path, by: str
) -> None:
    async with (
        running_edge(edge_settings(bus, tmp_path, name="edge-2")) as url,
        httpx.AsyncClient(base_url=url) as other,
    ):
        guest = await new_guest(client)
        access = bearer(guest["access_token"])
        assert (await other.get("/v1/models", headers=access)).status_code == 200
        if by == "refresh_token":
            body = {"refresh_token": guest["refresh_token"]}
            response = await client.post("/auth/logout", json=body)
        else:
            response = await client.get("/auth/logout", headers=access)
        assert response.json() == {"status": "logged out"}
        assert await eventually(other, "/v1/models", 401, **access) < 1.0
        assert (await client.get("/v1/models", headers=access)).status_code == 401
        token = {"refresh_token": guest["refresh_token"]}
        assert (await other.post("/auth/refresh-token", json=token)).status_code == 401


async def test_a_logout_survives_a_restart_of_the_edge(bus: NatsServer, tmp_path: Path) -> None:
    settings = edge_settings(bus, tmp_path)
    async with running_edge(settings) as url, httpx.AsyncClient(base_url=url) as client:
        guest = await new_guest(client)
        access = bearer(guest["access_token"])
        await client.post("/auth/logout", headers=access)
    async with running_edge(settings) as url, httpx.AsyncClient(base_url=url) as client:
        assert code_of(await client.get("/auth/me", headers=access)) == "token_revoked"


async def test_who_has_no_session_is_logged_out_already(client: httpx.AsyncClient) -> None:
    assert (await client.post("/auth/logout")).json() == {"status": "logged out"}
    assert (await client.post("/auth/logout", json={"refresh_token": "x"})).status_code == 200


async def test_guests_are_counted_by_address(client: httpx.AsyncClient) -> None:
    for _ in range(5):
        await new_guest(client)
    response = await client.post("/auth/guest")
    assert (response.status_code, code_of(response)) == (429, "too_many_guests")
    assert int(response.headers["retry-after"]) > 60


async def test_guests_can_be_kept_out(bus: NatsServer, tmp_path: Path) -> None:
    settings = edge_settings(bus, tmp_path, guests=False)
    async with running_edge(settings) as url, httpx.AsyncClient(base_url=url) as client:
        response = await client.post("/auth/guest")
        assert (response.status_code, code_of(response)) == (403, "guests_disabled")


async def test_a_guest_is_held_to_the_rate(client: httpx.AsyncClient) -> None:
    access = bearer((await new_guest(client))["access_token"])
    for _ in range(60):
        assert (await client.get("/v1/models/x", headers=access)).status_code == 404
    response = await client.get("/v1/models", headers=access)
    assert (response.status_code, code_of(response)) == (429, "rate_limit_exceeded")
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(response.headers["retry-after-ms"]) <= 1000


async def test_a_client_that_leaves_frees_its_place(
    client: httpx.AsyncClient, bus: NatsServer
) -> None:
    key, _ = await store_key(bus, limits=KeyLimits(in_flight=1))
    headers = {"x-api-key": key}
    await eventually(client, "/v1/models", 200, **headers)
    with pytest.raises(httpx.ReadTimeout):
        await client.post(CHAT, json=HELLO, headers=headers, timeout=0.3)
    assert await eventually(client, "/v1/models", 200, **headers) < 1.0


async def test_a_revoked_key_is_refused_within_a_second(
    client: httpx.AsyncClient, bus: NatsServer
) -> None:
    key, record = await store_key(bus)
    await eventually(client, "/v1/models", 200, **{"x-api-key": key})
    await put_key(bus, key, msgspec.structs.replace(record, revoked_at=time.time()))
    assert await eventually(client, "/v1/models", 401, **bearer(key)) < 1.0


async def test_forged_identity_is_never_believed(client: httpx.AsyncClient) -> None:
    forged = {"x-user-id": "admin", "x-auth-method": "apikey", "x-consumer-username": "admin"}
    assert (await client.get("/v1/models", headers=forged)).status_code == 401
    guest = await new_guest(client)
    access = bearer(guest["access_token"])
    me = await client.get("/auth/me", headers=forged | access)
    assert me.json()["id"] == guest["user_id"]


async def test_bad_requests_are_told_precisely(client: httpx.AsyncClient, bus: NatsServer) -> None:
    key, _ = await store_key(bus)
    headers = {"x-api-key": key}
    await eventually(client, "/v1/models", 200, **headers)

    async def refusal(content: bytes) -> tuple[int, str | None, str | None]:
        response = await client.post(CHAT, content=content, headers=headers)
        return response.status_code, code_of(response), response.json()["error"]["param"]

    many = msgspec.json.encode(HELLO | {"messages": [HELLO["messages"][0]] * 3000 + [{}]})
    assert await refusal(b"{") == (400, "invalid_json", None)
    assert await refusal(b'{"messages": []}') == (400, "invalid_value", "messages")
    assert await refusal(many) == (413, "body_too_large", None)
    unknown = msgspec.json.encode(HELLO | {"model": "gpt-0"})
    assert await refusal(unknown) == (404, "model_not_found", "model")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 10_000

    response = await client.post(CHAT, content=endless(), headers=headers)
    assert (response.status_code, code_of(response)) == (413, "body_too_large")


async def test_models_are_found_by_ids_with_slashes(
    client: httpx.AsyncClient, bus: NatsServer
) -> None:
    key, _ = await store_key(bus)
    catalogue = {"models": [{"id": "a/b/c", "created": 1, "owned_by": "x", "deployments": []}]}
    async with open_bus(bus.url("migrate"), name="test") as writer:
        models = Bucket(writer, subjects.KV_MODELS)
        await models.put(subjects.CATALOGUE_KEY, msgspec.json.encode(catalogue))
    await eventually(client, "/v1/models/a/b/c", 200, **{"x-api-key": key})
    response = await client.get("/v1/models/a%2Fb%2Fc", headers={"x-api-key": key})
    assert response.json()["id"] == "a/b/c"


async def test_readiness_names_what_is_there(client: httpx.AsyncClient, bus: NatsServer) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["checks"]["inference"] == {"status": "down", "workers": 0}
    async with open_bus(bus.url("inference"), name="test") as worker:
        health = Bucket(worker, subjects.KV_HEALTH)
        await health.put("worker.inference.inference-1", b'{"kind":"inference"}')
        await eventually(client, "/readyz", 200)
    told = (await client.get("/readyz")).json()
    assert told["status"] == "degraded"
    assert told["checks"]["nats"] == {"status": "ok"}
    assert told["checks"]["database"] == {"status": "down"}
    assert told["checks"]["objects"] == {"status": "ok"}


async def test_without_the_bus_requests_get_503_at_once_and_it_recovers(
    client: httpx.AsyncClient, bus: NatsServer
) -> None:
    key, _ = await store_key(bus)
    headers = {"x-api-key": key}
    await eventually(client, "/v1/models", 200, **headers)
    bus.kill()
    await eventually(client, "/readyz", 503)
    for path in (CHAT, "/auth/guest"):
        started = time.monotonic()
        response = await client.post(path, json=HELLO, headers=headers)
        assert time.monotonic() - started < 1.0
        assert (response.status_code, code_of(response)) == (503, "bus_unavailable")
        assert "retry-after" in response.headers
    assert (await client.get("/v1/models", headers=headers)).status_code == 200
    assert (await client.get("/healthz")).status_code == 200
    bus.start()
    await eventually(client, "/v1/chat/completions/x/stream", 404, **headers)


async def test_pages_are_public_and_need_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    for path in ("/", "/v1/swagger/index.html"):
        page = await client.get(path)
        assert page.headers["content-type"].startswith("text/html")
        assert "https://" not in page.text
    assert "No model is attached" in (await client.get("/")).text
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js", "LICENSE"):
        assert (await client.get(f"/v1/swagger/{name}")).status_code == 200
    missing = await client.get("/v1/swagger/../../settings.py")
    assert missing.status_code in (401, 404)
    assert (await client.get("/v1/openapi.json")).json()["openapi"] == "3.1.0"
    assert (await client.get("/metrics")).text.startswith("# HELP")


@pytest.mark.parametrize("ranges", ["bytes=abc", "bytes=99999999-", "lines=1-2", "bytes=0-3"])
async def test_files_are_served_whole(client: httpx.AsyncClient, ranges: str) -> None:
    page = await client.get("/v1/swagger/index.html", headers={"range": ranges})
    assert page.status_code == 200
    assert len(page.content) == int(page.headers["content-length"])


async def test_files_take_no_other_methods(client: httpx.AsyncClient) -> None:
    refused = await client.post("/v1/swagger/index.html")
    assert (refused.status_code, code_of(refused)) == (405, "method_not_allowed")
    assert refused.headers["allow"] == "GET, HEAD"


async def test_other_origins_are_let_in_by_setting_only(bus: NatsServer, tmp_path: Path) -> None:
    asked = {
        "origin": "http://app",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    async with (
        running_edge(edge_settings(bus, tmp_path)) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        response = await client.options("/v1/models", headers=asked)
        assert "access-control-allow-origin" not in response.headers
    settings = edge_settings(bus, tmp_path, cors_origins=["http://app"])
    async with running_edge(settings) as url, httpx.AsyncClient(base_url=url) as client:
        response = await client.options("/v1/models", headers=asked)
        assert response.headers["access-control-allow-origin"] == "http://app"
        response = await client.get("/v1/models", headers={"origin": "http://app"})
        assert response.status_code == 401
        assert response.headers["access-control-allow-origin"] == "http://app"
        assert "x-request-id" in response.headers["access-control-expose-headers"].lower()


async def test_addresses_come_from_trusted_proxies_only(bus: NatsServer, tmp_path: Path) -> None:
    for trusted, status in (("", 429), ("127.0.0.1", 201)):
        settings = edge_settings(bus, tmp_path, guest_creations=1, forwarded_allow_ips=trusted)
        async with running_edge(settings) as url, httpx.AsyncClient(base_url=url) as client:
            for last in (1, 2):
                forwarded = {"x-forwarded-for": f"192.0.2.{last}"}
                response = await client.post("/auth/guest", headers=forwarded)
            assert response.status_code == status


async def raw(client: httpx.AsyncClient, *parts: bytes) -> bytes:
    """Send bytes and read the answer until the server hangs up."""
    port = client.base_url.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.wait_for(writer.drain(), 5)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nbomb: " + b"x" * 1_000_000,
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nbomb: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 1_000_000,
    ],
)
async def test_header_bombs_are_refused_and_the_edge_goes_on(
    client: httpx.AsyncClient, head: bytes
) -> None:
    pieces = [head[start : start + 50_000] for start in range(0, len(head), 50_000)]
    answer = await raw(client, *pieces)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"head_too_large"' in answer
    assert (await client.get("/healthz")).status_code == 200


async def test_a_large_body_is_not_taken_for_a_head(client: httpx.AsyncClient) -> None:
    """Its last bytes come alone, or with the next request's head."""
    size = 90_000
    post = b"POST /auth/guest HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size
    get = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    body = b"x" * size
    for parts in ([post, body, get], [post + body[:9], body[9:] + get[:9], get[9:]]):
        answer = await raw(client, *parts)
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert answer.endswith(b'{"status":"ok"}')


async def test_garbage_behind_a_request_ends_the_connection(
    client: httpx.AsyncClient, bus: NatsServer
) -> None:
    key, _ = await store_key(bus)
    await eventually(client, "/v1/models", 200, **{"x-api-key": key})
    body = msgspec.json.encode(HELLO)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    assert await raw(client, head.encode() + body, b"garbage\r\n\r\n") == b""
    assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n"]
)
async def test_what_is_no_http_is_refused_in_the_envelope(
    client: httpx.AsyncClient, sent: bytes
) -> None:
    answer = await raw(client, sent)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"invalid_http"' in answer


@pytest.mark.parametrize("sent", [b"x: " + b"y" * 1_000_000, b"x: y\r\n" * 100_000])
async def test_trailers_without_an_end_are_refused(client: httpx.AsyncClient, sent: bytes) -> None:
    head = b"POST /auth/logout HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    pieces = [sent[start : start + 50_000] for start in range(0, len(sent), 50_000)]
    answer = await raw(client, head, *pieces)
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "rest",
    [
        b"transfer-encoding: chunked\r\n\r\nno size\r\n",
        b"transfer-encoding: strange\r\n\r\nbody",
    ],
)
async def test_a_body_that_is_no_http_is_refused_in_the_envelope(
    client: httpx.AsyncClient, rest: bytes
) -> None:
    answer = await raw(client, b"POST /auth/logout HTTP/1.1\r\nhost: x\r\n" + rest)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"invalid_http"' in answer


async def test_an_answered_request_is_not_answered_again(client: httpx.AsyncClient) -> None:
    """Its body goes wrong when it was refused already."""
    head = b"POST /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    writer.write(head)
    answer = await asyncio.wait_for(reader.readuntil(b"}}"), 5)
    writer.write(b"no size\r\n")
    assert await asyncio.wait_for(reader.read(), 5) == b""
    assert answer.startswith(b"HTTP/1.1 404 ")
    writer.close()


async def test_a_request_that_asks_for_another_protocol_is_served_in_this_one(
    client: httpx.AsyncClient,
) -> None:
    """As Java's client does with every first request; the body must not get lost."""
    body = b'{"refresh_token": "rt_unknown"}'
    head = (
        b"POST /auth/refresh-token HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\n"
        b"upgrade: h2c\r\nhttp2-settings: AAEA\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    last = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    for parts in ([head + body + last], [head[:50], head[50:], body, last]):
        answer = await raw(client, *parts)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b'"code":"invalid_refresh_token"' in answer
        assert answer.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize("target", [b"other:443", b"/healthz"])
async def test_the_edge_is_no_proxy(client: httpx.AsyncClient, target: bytes) -> None:
    answer = await raw(client, b"CONNECT %b HTTP/1.1\r\nhost: x\r\n\r\n" % target)
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_sockets_send_without_delay(client: httpx.AsyncClient) -> None:
    """Nagle's algorithm would hold a token back until the one before is acknowledged."""
    async with client.stream("GET", "/healthz"):
        ours = client.base_url.port
        delays = []
        for name in os.listdir("/proc/self/fd"):
            try:
                found = socket.socket(fileno=os.dup(int(name)))
            except OSError:
                continue
            with found:
                try:
                    if found.getsockname()[1] == ours and found.getpeername():
                        delays.append(not found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                except (OSError, IndexError, TypeError):
                    continue
        assert delays
        assert not any(delays)


async def test_the_edge_announces_itself_and_takes_it_back(bus: NatsServer, tmp_path: Path) -> None:
    async with open_bus(bus.url("cli"), name="test") as reader:
        health = Bucket(reader, subjects.KV_HEALTH)
        async with running_edge(edge_settings(bus, tmp_path)) as url:
            entry = await health.get("edge.edge-1")
            assert entry is not None
            told = msgspec.json.decode(entry.value)
            assert (told["kind"], told["draining"]) == ("edge", False)
            assert url.endswith(f":{told['port']}")
        assert await health.get("edge.edge-1") is None


async def test_a_port_in_use_is_an_oserror(bus: NatsServer, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await serve(edge_settings(bus, tmp_path, port=port), on_ready=lambda _: None)


async def test_without_a_bus_the_edge_does_not_start(
    nats: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is raised says why; the log has nothing more to say."""
    settings = edge_settings(nats, tmp_path)
    nats.kill()
    with pytest.raises(JanError, match="NATS"):
        await asyncio.wait_for(serve(settings, on_ready=lambda _: None), 10)
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


async def test_a_client_that_reads_nothing_does_not_hold_the_end_up(
    bus: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running_edge(edge_settings(bus, tmp_path)))
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", int(url.rsplit(":", 1)[1])))
            ask = b"GET /v1/swagger/swagger-ui-bundle.js HTTP/1.1\r\nhost: x\r\n\r\n"
            client.sendall(ask * 20)
            await asyncio.to_thread(client.recv, 1)
            before = time.monotonic()
            await stack.aclose()
            assert time.monotonic() - before < 3
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


async def test_a_signal_stops_it_in_order(bus: NatsServer, tmp_path: Path) -> None:
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    settings = edge_settings(bus, tmp_path)
    serving = asyncio.create_task(serve(settings, on_ready=ready.set_result))
    port = await asyncio.wait_for(ready, 10)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, 5)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
