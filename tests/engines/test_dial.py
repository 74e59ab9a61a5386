"""How a connection is made: addresses, proxies, certificates; and when a kept one is used again."""

import asyncio
import base64
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from schemas.errors import UpstreamError, UpstreamTimeout
from schemas.providers import OpenAIOptions, OpenAIProvider
from tests.engines.conftest import MODELS
from tests.engines.test_http import OK, _post, _server_context
from tests.support.raw import RawServer, Script, open_raw_server
from workers.inference.engines.dial import Proxy, connect_first, find_proxy
from workers.inference.engines.http import Client, Limits
from workers.inference.engines.openai import OpenAIEngine

PASSWORD = "proxy-secret-1"
TOKEN = base64.b64encode(f"jan:{PASSWORD}".encode()).decode()


class Tunnels:
    """A proxy: takes CONNECT and whole addresses, and asks for a password."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.port = 0
        self.reply = b"HTTP/1.1 200 Connection established\r\n\r\n"

    @property
    def url(self) -> str:
        return f"http://jan:{PASSWORD}@127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if f"Proxy-Authorization: Basic {TOKEN}".encode() not in head:
                writer.write(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
            elif not head.startswith(b"CONNECT"):
                writer.write(OK)
            elif b" 200 " not in self.reply:
                writer.write(self.reply)
            else:
                await self._connect(head, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _connect(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        port = int(head.split()[1].rpartition(b":")[2])
        there, back = await asyncio.open_connection("127.0.0.1", port)
        writer.write(self.reply)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
            target.close()

        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)


@asynccontextmanager
async def _proxy() -> AsyncIterator[Tunnels]:
    tunnels = Tunnels()
    server = await asyncio.start_server(tunnels.serve, "127.0.0.1", 0)
    tunnels.port = server.sockets[0].getsockname()[1]
    yield tunnels
    server.close()


@asynccontextmanager
async def _secure_origin(folder: Path) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"{}")
                writer.write(OK)
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    context = _server_context(folder)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()


async def test_a_secure_origin_is_reached_through_a_tunnel(tmp_path: Path) -> None:
    async with _secure_origin(tmp_path) as url, _proxy() as proxy:
        ca = str(tmp_path / "certificate.pem")
        client = Client(url, {"X-Key": "k"}, Limits(), proxy=proxy.url, ca_file=ca)
        assert (await _post(client)).data == b"ok"
        assert (await _post(client)).data == b"ok"
        await client.close()
    (head,) = proxy.heads
    assert head.startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % int(url[18:-3]))
    assert b"X-Key" not in head


async def test_a_certificate_is_checked_through_a_tunnel_too(tmp_path: Path) -> None:
    async with _secure_origin(tmp_path) as url, _proxy() as proxy:
        with pytest.raises(UpstreamError, match="no trusted connection"):
            await _post(Client(url, {}, Limits(), proxy=proxy.url))


async def test_a_plain_origin_is_named_to_the_proxy() -> None:
    async with _proxy() as proxy:
        client = Client("http://models.test:81/v1", {}, Limits(), proxy=proxy.url)
        assert (await _post(client)).data == b"ok"
        await client.close()
    (head,) = proxy.heads
    assert head.startswith(b"POST http://models.test:81/v1/x HTTP/1.1\r\nHost: models.test:81\r\n")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"HTTP/1.1 407 No\r\n\r\n", "proxy refused the server's credentials"),
        (b"HTTP/1.1 502 Bad\r\n\r\n", r"made no connection to the provider \(502\)"),
        (b"SSH-2.0\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 403" + b"x" * 40_000, "not valid HTTP"),
        (b"", "proxy closed"),
        (b"HTTP/1.1 299 X\r\n\r\nhello", "nobody asked for"),
    ],
)
async def test_a_proxy_that_refuses_is_told_without_its_password(
    tmp_path: Path, reply: bytes, words: str
) -> None:
    async with _secure_origin(tmp_path) as url, _proxy() as proxy:
        proxy.reply = reply
        with pytest.raises(UpstreamError, match=words) as caught:
            await _post(Client(url, {}, Limits(), proxy=proxy.url))
        assert PASSWORD not in repr(caught.value)
        assert caught.value.retryable


async def test_a_proxy_that_is_not_there_or_silent_is_a_fault_in_time() -> None:
    with pytest.raises(UpstreamError, match=r"proxy can't be reached"):
        await _post(Client("http://a.test", {}, Limits(), proxy="http://127.0.0.1:1"))
    async with open_raw_server(Script([], "hang")) as server:
        client = Client(
            "https://a.test", {}, Limits(connect=0.2), proxy=f"http://127.0.0.1:{server.port}"
        )
        with pytest.raises(UpstreamTimeout, match="connecting"):
            await _post(client)
        await server.settle(0)


@pytest.mark.parametrize(
    ("env", "host", "port", "found"),
    [
        ({}, "api.test", 443, None),
        ({"HTTPS_PROXY": "http://p:8"}, "api.test", 443, Proxy("p", 8)),
        ({"https_proxy": "p:8"}, "api.test", 443, Proxy("p", 8)),
        ({"HTTP_PROXY": "http://p:8"}, "api.test", 443, None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "x, .test"}, "api.test", 443, None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "*"}, "api.test", 443, None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "api.test:443"}, "api.test", 443, None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "8.8.0.0/16"}, "8.8.8.8", 443, None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "9.0.0.0/8"}, "8.8.8.8", 443, Proxy("p", 80)),
        ({"HTTPS_PROXY": "http://p"}, "127.0.0.1", 443, None),
        ({"HTTPS_PROXY": "http://p"}, "::1", 443, None),
        ({"HTTPS_PROXY": "http://p"}, "10.1.2.3", 443, None),
        ({"HTTPS_PROXY": "http://p"}, "localhost", 443, None),
        ({"HTTPS_PROXY": "http://p"}, "vllm", 443, None),
    ],
)
def test_the_environments_proxy_is_for_what_is_outside(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], host: str, port: int, found: Proxy | None
) -> None:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_PROXY".upper(), raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert find_proxy("env", "https", host, port) == found
    assert find_proxy("none", "https", host, port) is None


async def test_an_environments_proxy_of_another_kind_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"socks5://u:{PASSWORD}@p:1")
    with pytest.raises(UpstreamError, match="HTTPS_PROXY must be an http address") as caught:
        await _post(Client("https://api.test", {}, Limits()))
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "proxy",
    [f"socks5://u:{PASSWORD}@p", f"http://u:{PASSWORD}@p:x", f"http://u:{PASSWORD}@", "p:8", ""],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(proxy: str) -> None:
    with pytest.raises(ValidationError) as caught:
        OpenAIOptions(proxy=SecretStr(proxy))
    assert PASSWORD not in str(caught.value)


def test_settings_show_no_password() -> None:
    provider = OpenAIProvider(
        name="remote",
        kind="openai",
        base_url=f"http://u:{PASSWORD}@h/v1",
        models=MODELS,
        options=OpenAIOptions(proxy=SecretStr(f"http://u:{PASSWORD}@p")),
    )
    assert PASSWORD not in repr(provider) + str(provider)


async def test_the_addresss_user_is_who_we_are(tmp_path: Path) -> None:
    async with open_raw_server(Script([OK])) as server:
        url = f"http://jan:p%40ss@127.0.0.1:{server.port}"
        client = Client(url, {}, Limits())
        await _post(client)
        await client.close()
        token = base64.b64encode(b"jan:p@ss")
        assert b"\r\nAuthorization: Basic %b\r\n" % token in server.requests[0]
        assert b"Host: 127.0.0.1:%d\r\n" % server.port in server.requests[0]


async def test_a_ca_file_is_all_that_is_trusted(tmp_path: Path) -> None:
    async with _secure_origin(tmp_path) as url:
        client = Client(url, {}, Limits(), ca_file=str(tmp_path / "certificate.pem"))
        assert (await _post(client)).data == b"ok"
        await client.close()
        with pytest.raises(UpstreamError, match="no trusted connection"):
            await _post(Client(url, {}, Limits()))


async def test_a_ca_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")
    for path in (tmp_path / "none.pem", broken):
        engine = OpenAIEngine(
            OpenAIProvider(
                name="remote",
                kind="openai",
                base_url="https://127.0.0.1:1",
                models=MODELS,
                options=OpenAIOptions(ca_file=str(path)),
            )
        )
        with pytest.raises(UpstreamError, match="ca_file can't be used"):
            await engine.check()


async def test_ipv6_addresses_are_reached() -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    async with open_raw_server(Script([OK]), "::1") as server:
        client = Client(f"http://[::1]:{server.port}", {}, Limits())
        assert (await _post(client)).data == b"ok"
        assert b"Host: [::1]:%d\r\n" % server.port in server.requests[0]
        await client.close()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["no-such-name.invalid", "a..b", "x" * 70 + ".test"])
async def test_a_name_that_nobody_has_is_a_fault(host: str) -> None:
    with pytest.raises(UpstreamError):
        await _post(Client(f"http://{host}", {}, Limits(), proxy="none"))


async def test_the_next_address_is_tried_when_one_refuses_or_is_slow() -> None:
    async with open_raw_server(Script([OK])) as server:
        good = ("127.0.0.1", server.port)
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            silent = full.getsockname()
            fillers = []
            for _ in range(4):  # its queue is full: the next SYN is not answered
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(silent)
                fillers.append(filler)
            for bad in (("127.0.0.1", 1), silent):
                kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
                addresses = [(*kind, address) for address in (bad, bad, good)]
                sock = await asyncio.wait_for(connect_first(addresses), 5)
                assert sock.getpeername() == good
                sock.close()
            for filler in fillers:
                filler.close()
    assert len(asyncio.all_tasks()) == 1


async def _after_one(server: RawServer, *scripts: Script) -> Client:
    client = Client(
        f"http://127.0.0.1:{server.port}", {}, Limits(connect=2, first_byte=2, between=2)
    )
    await _post(client)
    server.script(*scripts)
    return client


@pytest.mark.parametrize("end", ["fin", "rst"])
async def test_a_request_that_met_a_closing_connection_is_sent_once_more(end: Any) -> None:
    async with open_raw_server(Script([OK])) as server:
        client = await _after_one(server, Script([], end))
        assert (await _post(client)).data == b"ok"
        assert (server.accepted, len(server.requests)) == (2, 3)
        # Not a third time: on a new connection it is a fault.
        server.script(Script([], end), Script([], end))
        with pytest.raises(UpstreamError, match="closed the connection"):
            await _post(client)
        assert len(server.requests) == 5
        await client.close()


@pytest.mark.parametrize(
    "script",
    [
        Script([b"H"], "fin"),
        Script([b"HTTP/1.1 100 Continue\r\n\r\n"], "fin"),
        Script([b"HTTP/1.1 200 OK\r\n\r\n"], "rst"),
        Script([b""], "fin", pause=0.7),
    ],
    ids=["a byte", "an interim answer", "a head", "late"],
)
async def test_a_request_that_may_have_been_begun_is_not_repeated(script: Script) -> None:
    async with open_raw_server(Script([OK])) as server:
        client = await _after_one(server, script)
        with pytest.raises(UpstreamError):
            await _post(client)
        assert len(server.requests) == 2
        await client.close()


async def test_a_silent_kept_connection_is_a_timeout_and_no_repeat() -> None:
    async with open_raw_server(Script([OK])) as server:
        client = await _after_one(server, Script([], "hang"))
        with pytest.raises(UpstreamTimeout):
            await _post(client, seconds=0.2)
        assert len(server.requests) == 2
        await client.close()


def test_verification_has_no_switch() -> None:
    names = set(OpenAIOptions.model_fields)
    assert not [name for name in names if "verify" in name or "insecure" in name]
    context = Client("https://h", {}, Limits())._tls
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
