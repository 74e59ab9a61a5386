"""The HTTP client against servers that are slow, wrong, or not to be trusted."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from schemas.errors import UpstreamError, UpstreamTimeout
from tests.support.upstream import Answer, Body, Silent, Upstream, Wire
from workers.inference.engines.http import Client, Headers, Limits

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class _Reader:
    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = {}
        self.data = b""

    def on_head(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers

    def on_data(self, data: bytes) -> bool:
        self.data += data
        return False


@asynccontextmanager
async def _client(upstream: Upstream, limits: Limits | None = None) -> AsyncIterator[Client]:
    client = Client(upstream.base_url, {}, limits or Limits(first_byte=2, between=2))
    yield client
    await client.close()


async def _post(client: Client, seconds: float = 5.0) -> _Reader:
    reader = _Reader()
    async with asyncio.timeout(10):
        await client.exchange("POST", "/x", reader, body=b"{}", seconds=seconds)
    return reader


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (OK, 200, b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, 200, b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", 500, b""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2;name=value\r\nok\r\n0\r\nTrailer: x\r\n\r\n",
            200,
            b"ok",
        ),
    ],
)
async def test_answers_are_read_in_every_framing(
    upstream: Upstream, data: bytes, status: int, body: bytes
) -> None:
    upstream.script(Wire(data))
    async with _client(upstream) as client:
        reader = await _post(client)
    assert (reader.status, reader.data) == (status, body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n",
        b"SSH-2.0-OpenSSH_9.7\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    ],
)
async def test_a_broken_answer_is_an_upstream_error(upstream: Upstream, data: bytes) -> None:
    upstream.script(Wire(data))
    async with _client(upstream) as client:
        with pytest.raises(UpstreamError):
            await _post(client)


async def test_an_endless_head_is_refused_while_it_comes(upstream: Upstream) -> None:
    upstream.script(Wire(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000, close=False))
    async with _client(upstream, Limits(first_byte=8)) as client:
        with pytest.raises(UpstreamError, match="headers"):
            await _post(client, seconds=8)


async def test_bytes_after_the_answer_end_the_connection(upstream: Upstream) -> None:
    upstream.script(Wire(OK + b"HTTP/1.1 200 OK\r\n", close=False), Answer())
    async with _client(upstream) as client:
        assert (await _post(client)).data == b"ok"
        reader = _Reader()
        await client.exchange("GET", "/models", reader)
    assert reader.status == 200
    assert upstream.accepted == 2


async def test_a_run_has_no_more_time_than_its_own(upstream: Upstream) -> None:
    upstream.script(Silent())
    async with _client(upstream) as client:
        with pytest.raises(UpstreamTimeout, match="longer than it may"):
            await _post(client, seconds=0.1)
        await asyncio.wait_for(upstream.calls[0].closed.wait(), 1)


async def test_connections_are_bounded(upstream: Upstream) -> None:
    upstream.script(Silent())
    async with _client(upstream, Limits(connections=1, connect=0.5, first_byte=5)) as client:
        first = asyncio.create_task(_post(client))
        await asyncio.wait_for(upstream.count(1), 5)
        with pytest.raises(UpstreamTimeout, match="became free"):
            await _post(client)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        upstream.script(Body([b"ok"]))
        assert (await _post(client)).data == b"ok"


async def test_idle_connections_are_closed_in_time(upstream: Upstream) -> None:
    upstream.script(Body([b"ok"]))
    async with _client(upstream, Limits(idle=0.05)) as client:
        await _post(client)
        (connection,) = upstream.connections
        await asyncio.wait_for(connection.gone.wait(), 5)


async def test_a_reader_that_fails_closes_the_connection(upstream: Upstream) -> None:
    class Failing(_Reader):
        def on_data(self, data: bytes) -> bool:
            raise ZeroDivisionError(data)

    upstream.script(Body([b"a"], end="hang"))
    async with _client(upstream) as client:
        with pytest.raises(ZeroDivisionError):
            await client.exchange("POST", "/x", Failing(), body=b"{}")
        await asyncio.wait_for(upstream.calls[0].closed.wait(), 1)


@pytest.mark.parametrize("data", [OK, OK.replace(b"Content-Length: 2\r\n", b"")])
async def test_a_reader_that_refuses_counts_also_when_all_has_come(
    upstream: Upstream, data: bytes
) -> None:
    class Refusing(_Reader):
        def on_data(self, data: bytes) -> bool:
            raise UpstreamError(f"not this: {data!r}")

    class Failing(_Reader):
        def on_head(self, status: int, headers: Headers) -> None:
            raise ZeroDivisionError(status, headers)

    upstream.script(Wire(data), Wire(data), Wire(OK))
    async with _client(upstream) as client:
        with pytest.raises(UpstreamError, match="not this"):
            await client.exchange("POST", "/x", Refusing(), body=b"{}")
        with pytest.raises(ZeroDivisionError):
            await client.exchange("POST", "/x", Failing(), body=b"{}")
        assert (await _post(client)).status == 200


@pytest.mark.parametrize(
    "url", ["http://u:secret@h:x", "http://u:secret@[x", "ftp://u:secret@h", "http://u:secret@"]
)
def test_a_wrong_address_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        Client(url, {}, Limits())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://x/v1", "host:80", "http://"])
def test_only_http_addresses_are_taken(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        Client(url, {}, Limits())


def test_headers_cannot_smuggle_lines_in() -> None:
    with pytest.raises(ValueError, match="X-Key") as caught:
        Client("http://127.0.0.1", {"X-Key": "a\r\nHost: b"}, Limits())
    assert "Host: b" not in str(caught.value)


async def test_an_unknown_certificate_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = _server_context(tmp_path)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(OK)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    with pytest.raises(UpstreamError, match="no trusted connection"):
        await _post(Client(url, {}, Limits()))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    client = Client(url, {}, Limits())
    assert (await _post(client)).data == b"ok"
    wrong_name = url.replace("127.0.0.1", "localhost")
    with pytest.raises(UpstreamError, match="no trusted connection"):
        await _post(Client(wrong_name, {}, Limits()))
    await client.close()
    server.close()


def _server_context(folder: Path) -> ssl.SSLContext:
    """A server's TLS with a certificate of its own for 127.0.0.1."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context
