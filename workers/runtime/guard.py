"""Requests to addresses that a stranger chose: only to the public internet, and only there.

A name is resolved once for each connection, every address that it has must be public, and the
connection goes to exactly one of those: what a name server says afterwards changes nothing. Host
header and TLS name stay the name's. Each redirect is a new request, so it is looked at anew.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

import httpcore2
import httpx2

from schemas.outbound import PORTS, Blocked, Outbound, to_address

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_TRIES = 3  # addresses of a name that are tried
_RESOLVE_TIMEOUT = 5.0


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver for a name's addresses. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard(Outbound):
    """Says which URLs and addresses may be reached, also by what names stand for."""

    def __init__(
        self,
        allowed: Iterable[str] = (),
        *,
        resolver: Resolve = resolve,
        ports: Sequence[int] = PORTS,
    ) -> None:
        super().__init__(allowed, ports=ports)
        self._resolve = resolver

    async def admit(self, host: str, port: int) -> list[str]:
        """Resolve a host, once, to addresses that may be connected to. Raises Blocked, OSError."""
        host = host.strip("[]")
        self.check_host(host, port)
        async with asyncio.timeout(_RESOLVE_TIMEOUT):
            found = [host] if to_address(host) else await self._resolve(host, port)
        addresses = [to_address(text) for text in found]
        if not addresses:
            raise Blocked(f"{host} has no address")
        for address in addresses:
            if address is None or not self.may_reach(host, port, address):
                raise Blocked(f"{host} is not on the public internet")
        return list(found)


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
