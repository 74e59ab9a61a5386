"""Requests to addresses that a stranger chose: only to the public internet, and only there.

A name is resolved once for each connection, every address that it has must be public, and the
connection goes to exactly one of those: what a name server says afterwards changes nothing. Host
header and TLS name stay the name's. Each redirect is a new request, so it is looked at anew.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import httpcore2
import httpx2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

PORTS = (80, 443, 8080, 8443)

_MAX_URL = 2048
_TRIES = 3  # addresses of a name that are tried
_RESOLVE_TIMEOUT = 5.0
_NUMERIC = re.compile(r"(0[xX][0-9A-Fa-f]*|[0-9]+)")
_UNICAST_6 = ipaddress.IPv6Network("2000::/3")  # nothing else of IPv6 is public
_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's metadata, at an address that is no private one
        "192.0.0.0/24",  # of protocols; clouds have metadata here
        "192.88.99.0/24",  # relays of 6to4
        "224.0.0.0/4",
        "2001::/23",  # Teredo and other tunnels
        "2002::/16",  # 6to4: an IPv4 address inside, which may be private
        "3fff::/20",  # documentation
    )
)


class Blocked(Exception):
    """A URL or an address that must not be reached; one sentence that can be shown to anybody."""


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, in whatever form it comes."""
    if isinstance(address, ipaddress.IPv6Address) and (
        address.scope_id is not None or address not in _UNICAST_6
    ):
        return False  # so are IPv4 addresses inside: ::ffff:0:0/96, ::/96, 64:ff9b::/96
    if any(address in network for network in _REFUSED if network.version == address.version):
        return False
    return address.is_global and not address.is_reserved and not address.is_multicast


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver for a name's addresses. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard:
    """Says which URLs and addresses may be reached.

    `allowed` are exceptions, for operators and tests: a host or a network, a host with a port.
    """

    def __init__(
        self,
        allowed: Iterable[str] = (),
        *,
        resolver: Resolve = resolve,
        ports: Sequence[int] = PORTS,
    ) -> None:
        self._resolve = resolver
        self._ports = ports
        self._hosts: set[tuple[str, int | None]] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in allowed:
            self._allow(entry.strip())

    def check(self, url: str) -> httpx2.URL:
        """Look at a URL before anything is asked of its host. Raises Blocked."""
        if len(url) > _MAX_URL:
            raise Blocked(f"the URL is longer than {_MAX_URL} characters")
        if any(char.isspace() or not char.isprintable() or char == "\\" for char in url):
            raise Blocked("the URL has white space, control characters or backslashes")
        try:
            parsed = httpx2.URL(url)
            usual = {"http": 80, "https": 443}.get(parsed.scheme, 0)
            port = usual if parsed.port is None else parsed.port
            host = parsed.raw_host.decode("ascii")
        except (httpx2.InvalidURL, ValueError, UnicodeError):
            raise Blocked("the URL can't be read") from None
        if parsed.scheme not in ("http", "https"):
            raise Blocked("only http and https URLs are reached")
        if parsed.userinfo or "@" in parsed.netloc.decode("ascii", "replace"):
            raise Blocked("a URL with a user name or password is not reached")
        if not host:
            raise Blocked("the URL has no host")
        self._check_host(host, port)
        return parsed

    async def admit(self, host: str, port: int) -> list[str]:
        """Resolve a host, once, to addresses that may be connected to. Raises Blocked, OSError."""
        host = host.strip("[]")
        self._check_host(host, port)
        async with asyncio.timeout(_RESOLVE_TIMEOUT):
            found = [host] if _to_address(host) else await self._resolve(host, port)
        addresses = [_to_address(text) for text in found]
        if not addresses:
            raise Blocked(f"{host} has no address")
        for address in addresses:
            if address is None or not self._may_reach(host, port, address):
                raise Blocked(f"{host} is not on the public internet")
        return list(found)

    def _check_host(self, host: str, port: int) -> None:
        host = host.strip("[]").lower()
        if self._is_allowed(host, port):
            return
        address = _to_address(host)
        if address is None and _ends_in_a_number(host):
            raise Blocked(f"{host} is no way to write an address")
        if address is not None and not self._may_reach(host, port, address):
            raise Blocked(f"{host} is not on the public internet")
        if port not in self._ports:
            raise Blocked(f"port {port} is not reached, only {', '.join(map(str, self._ports))}")

    def _may_reach(self, host: str, port: int, address: Address) -> bool:
        if self._is_allowed(host.lower(), port) or is_public(address):
            return True
        return any(address in network for network in self._networks)

    def _is_allowed(self, host: str, port: int) -> bool:
        host = host.rstrip(".")
        return (host, None) in self._hosts or (host, port) in self._hosts

    def _allow(self, entry: str) -> None:
        with suppress(ValueError):
            self._networks.append(ipaddress.ip_network(entry))
        if entry.startswith("[") or entry.count(":") == 1:
            host, _, port = entry.rpartition(":")
            if port.isdecimal():
                self._hosts.add((host.strip("[]").lower(), int(port)))
                return
        if "/" not in entry:
            self._hosts.add((entry.strip("[]").lower(), None))


def _to_address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _ends_in_a_number(host: str) -> bool:
    """Whether a resolver may take it for an IPv4 address: decimal, octal, hex, too few parts."""
    last = host.rstrip(".").rpartition(".")[2]
    return bool(_NUMERIC.fullmatch(last)) or ":" in host


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """Sends requests where a guard lets it. Raises Blocked besides what httpx2 raises.

    With `max_bytes` a response's body breaks off with ReadError where it is larger, and one that
    is packed is not read at all: what is in it has no bound.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        max_bytes: int | None = None,
        connections: int = 100,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        super().__init__(verify=verify, trust_env=False)  # a proxy would resolve names itself
        self._guard = guard
        self._max_bytes = max_bytes
        # httpx2 has no parameter for the backend that its pool connects with.
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(verify=verify, trust_env=False),
            max_connections=connections,
            max_keepalive_connections=connections // 5,
            keepalive_expiry=5.0,
            network_backend=_Backend(guard),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Look at the URL, send, and bound what comes back."""
        self._guard.check(str(request.url))
        if self._max_bytes is not None:
            request.headers["Accept-Encoding"] = "identity"
        response = await super().handle_async_request(request)
        if self._max_bytes is not None:
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            if response.headers.get("content-encoding", "identity") != "identity":
                await response.aclose()
                raise httpx2.ReadError("the response is packed, which was not asked for")
            response.stream = _Bounded(response.stream, self._max_bytes)
        return response


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, most: int) -> None:
        self._inner = inner
        self._left = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            self._left -= len(part)
            if self._left < 0:
                raise httpx2.ReadError("the response is too large")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Backend(httpcore2.AnyIOBackend):
    """Connects to the very address that the guard has admitted."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address that answers. Raises Blocked, ConnectError."""
        try:
            addresses = await self._guard.admit(host, port)
        except (OSError, TimeoutError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} can't be found") from error
        failure: Exception = httpcore2.ConnectError(f"{host} can't be reached")
        for address in addresses[:_TRIES]:
            try:
                return await super().connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:
        """Sockets of this machine are never meant."""
        raise Blocked("a socket of this machine is not reached")


def guarded_client(
    guard: Guard,
    *,
    timeout: httpx2.Timeout | float = 10.0,
    max_bytes: int | None = None,
    headers: dict[str, str] | None = None,
    verify: ssl.SSLContext | bool = True,
) -> httpx2.AsyncClient:
    """Make a client for URLs that strangers choose. It follows no redirect by itself."""
    return httpx2.AsyncClient(
        transport=GuardedTransport(guard, max_bytes=max_bytes, verify=verify),
        timeout=timeout,
        headers=headers,
        trust_env=False,
        follow_redirects=False,
    )
