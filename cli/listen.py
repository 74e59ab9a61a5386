"""Addresses to listen on: whether one is free, and what to say when it is not."""

import errno
import random
import socket

from cli.exits import BadSetup, PortInUse

# Under the range that systems take outgoing ports from: a client that retries a port of that range
# while nobody listens can connect to itself.
PORTS = range(20_000, 32_000)


def any_port() -> int:
    """Choose a port at random; the bind itself decides whether it is free."""
    return random.choice(PORTS)  # noqa: S311 - nothing secret


def check_ports(host: str, port: int, count: int) -> None:
    """Raise PortInUse or BadSetup if an edge can't listen; its own bind decides once more."""
    for number in range(port, port + count) if port else (0,):
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except socket.gaierror as error:
            raise BadSetup(f"--host {host}: {error.strerror}") from None
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise refused(host, number, error) from None


def refused(host: str, port: int, error: OSError) -> BadSetup | PortInUse:
    """Say why an address can't be listened on."""
    if error.errno == errno.EADDRINUSE:
        return PortInUse(f"port {port} is in use on {reachable(host)}: choose another with --port")
    reason = (error.strerror or str(error)).lower()
    return BadSetup(f"can't listen on {host}:{port} ({reason}): choose another --host or --port")


def reachable(host: str) -> str:
    """Write a host so that a client here can use it in a URL: a wildcard is not an address."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
