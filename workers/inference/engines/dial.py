"""How a connection to a provider is made: which address, and through which proxy."""

import asyncio
import base64
import contextlib
import ipaddress
import itertools
import re
import socket
import urllib.request
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from schemas.errors import UpstreamError

_HEAD_START = 0.25  # seconds before another address is tried beside a slow one (RFC 8305 §8)
_REPLY_LIMIT = 16 * 1024  # bytes of a proxy's reply to CONNECT
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r\n]")

_SECRET_NAME = re.compile(r"key|token|secret|sig|pass|auth|code", re.IGNORECASE)
_WORD = 8  # characters from which on a user's name is hardly a word

Address = tuple[int, int, int, str, Any]  # as getaddrinfo gives them


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that speaks HTTP; `authorization` is a header's value, empty for none."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


def find_proxy(setting: str, scheme: str, host: str, port: int) -> Proxy | None:
    """Choose the proxy to an origin: `setting` is `none`, `env` or a URL.

    `env` reads HTTP_PROXY, HTTPS_PROXY and NO_PROXY, in capitals or not. What is inside is never
    reached through those: loopback and private addresses, and names without a dot. Raises
    ValueError, without the URL: it may hold a password.
    """
    if setting == "none":
        return None
    if setting != "env":
        return _to_proxy(setting, "proxy")
    found = urllib.request.getproxies_environment()
    url = found.get(scheme)
    if url is None or _is_inside(host) or _is_excepted(host, port, found):
        return None
    return _to_proxy(url if "://" in url else f"http://{url}", f"{scheme.upper()}_PROXY")


def basic(user: str, password: str) -> str:
    """The value of an Authorization header for a user and password as they stand in a URL."""
    pair = f"{unquote(user)}:{unquote(password)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def find_secrets(url: str) -> Iterable[str]:
    """What must not be shown of a URL: user and password, and what its query calls a secret."""
    parts = urlsplit(url)
    user, password = parts.username or "", parts.password or ""
    if user or password:
        yield from (f"{user}:{password}", basic(user, password).removeprefix("Basic "))
        # A user's name may be a common word, unless it stands for the password, as tokens do.
        words = [password] if password and len(user) < _WORD else [user, password]
        yield from (spelling for word in words for spelling in (word, unquote(word)))
    for name, value in parse_qsl(parts.query):
        if _SECRET_NAME.search(name):
            yield value


async def dial(host: str, port: int) -> socket.socket:
    """Connect to a name: its next address starts when the last is slow or has failed."""
    try:  # an address needs no thread, which slow names may all hold
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await connect_first(_alternate(found))


async def tunnel(sock: socket.socket, host: str, port: int, authorization: str) -> None:
    """Ask the proxy at the other end for a tunnel to an origin (RFC 9110 §9.3.6)."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if authorization:
        lines.append(f"Proxy-Authorization: {authorization}")
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode("ascii"))
    reply = b""
    while b"\r\n\r\n" not in reply:
        if len(reply) > _REPLY_LIMIT:
            raise UpstreamError("the proxy's answer is not valid HTTP")
        data = await loop.sock_recv(sock, 4096)
        if not data:
            raise UpstreamError("the proxy closed the connection")
        reply += data
    status = _STATUS.match(reply)
    if status is None:
        raise UpstreamError("the proxy's answer is not valid HTTP")
    if status[1] == b"407":
        raise UpstreamError("the proxy refused the server's credentials (407)")
    if not status[1].startswith(b"2"):
        code = status[1].decode()
        raise UpstreamError(f"the proxy made no connection to the provider ({code})")
    if not reply.endswith(b"\r\n\r\n"):
        # TLS begins with us: what is already there comes from no origin.
        raise UpstreamError("the proxy sent something that nobody asked for")


def split_url(url: str, *schemes: str) -> tuple[SplitResult, int | None]:
    """Take a URL and its port apart; raise a ValueError that repeats nothing of it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text has a part of the URL, which may be one of a password
        raise ValueError("the URL's host or port can't be read") from None
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"must be an {' or '.join(schemes)} address")
    return parts, port


def _to_proxy(url: str, name: str) -> Proxy:
    try:
        parts, port = split_url(url, "http")
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
    assert parts.hostname is not None
    user, password = parts.username or "", parts.password or ""
    authorization = basic(user, password) if user or password else ""
    return Proxy(parts.hostname, port or 80, authorization, tuple(find_secrets(url)))


def _is_inside(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host.rstrip(".") or host.rstrip(".").endswith(".localhost")
    return address.is_private or address.is_loopback or address.is_link_local


def _is_excepted(host: str, port: int, found: dict[str, str]) -> bool:
    if urllib.request.proxy_bypass_environment(f"{host}:{port}", found):  # type: ignore[attr-defined]
        return True
    with contextlib.suppress(ValueError):  # a name is in no network
        address = ipaddress.ip_address(host)
        return any(address in network for network in _networks(found.get("no", "")))
    return False


def _networks(names: str) -> Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for name in names.split(","):
        with contextlib.suppress(ValueError):  # NO_PROXY holds names, too
            yield ipaddress.ip_network(name.strip(), strict=False)


def _alternate(addresses: Iterable[Address]) -> list[Address]:
    """Take turns between the families, in the order in which they came (RFC 8305 §4)."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    turns = itertools.zip_longest(*families.values())
    return [address for turn in turns for address in turn if address is not None]


async def _connect(address: Address) -> socket.socket:
    sock = socket.socket(*address[:3])
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address[4])
    except BaseException:
        sock.close()
        raise
    return sock


async def connect_first(addresses: Sequence[Address]) -> socket.socket:
    """Connect to whichever of these answers first, in this order; raise the last failure."""
    if len(addresses) == 1:
        return await _connect(addresses[0])
    waiting = deque(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException | None = None
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(_connect(waiting.popleft())))
            done, _ = await asyncio.wait(
                running,
                timeout=_HEAD_START if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                running.discard(task)
                failure = task.exception()
                if failure is None:
                    return task.result()
        raise failure or OSError("there is no address")
    finally:
        for task in running:
            task.cancel()
        for late in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(late, socket.socket):
                late.close()
