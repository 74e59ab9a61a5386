"""Where strangers may send this server: pure functions over a URL as it is written.

What a name stands for is known only when it is asked for: `workers/runtime/guard.py`.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import httpx2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PORTS: Final = (80, 443, 8080, 8443)

_MAX_URL = 2048
_NUMERIC = re.compile(r"(0[xX][0-9A-Fa-f]*|[0-9]+)")
_UNICAST_6 = ipaddress.IPv6Network("2000::/3")  # nothing else of IPv6 is public
_LOOPBACK = ipaddress.IPv4Address("127.0.0.1")
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


class Outbound:
    """Says which URLs and addresses may be reached.

    `allowed` are exceptions, for operators and tests: a host or a network, a host with a port.
    """

    def __init__(self, allowed: Iterable[str] = (), *, ports: Sequence[int] = PORTS) -> None:
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
        self.check_host(host.strip("[]"), port)
        return parsed

    def check_host(self, host: str, port: int) -> None:
        """Look at a host as it is written, without brackets. Raises Blocked."""
        host = host.lower()
        if self._is_allowed(host, port):
            return
        address = to_address(host)
        if address is None and _ends_in_a_number(host):
            raise Blocked(f"{host} is no way to write an address")
        if address is None and _is_this_machine(host):
            address = _LOOPBACK
        if address is not None and not self.may_reach(host, port, address):
            raise Blocked(f"{host} is not on the public internet")
        if port not in self._ports:
            raise Blocked(f"port {port} is not reached, only {', '.join(map(str, self._ports))}")

    def may_reach(self, host: str, port: int, address: Address) -> bool:
        """Whether an address may be connected to for a host, which is allowed itself or is not."""
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


def to_address(text: str) -> Address | None:
    """Read an address that is written as one; None for anything else."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _ends_in_a_number(host: str) -> bool:
    """Whether a resolver may take it for an IPv4 address: decimal, octal, hex, too few parts."""
    last = host.rstrip(".").rpartition(".")[2]
    return bool(_NUMERIC.fullmatch(last)) or ":" in host


def _is_this_machine(host: str) -> bool:
    """Whether a name is one that is this machine's everywhere (RFC 6761)."""
    return f".{host.rstrip('.')}".endswith(".localhost")
