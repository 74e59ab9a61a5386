"""Ports for servers that have to be told theirs before they start."""

import random
import socket
from contextlib import ExitStack, suppress

from cli.listen import PORTS


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now.

    Systems give none of them to outgoing connections, nor to servers that take any: of all that
    runs beside, hardly anything can take one before its server does.
    """
    with ExitStack() as stack:
        found: list[int] = []
        for port in random.sample(PORTS, len(PORTS)):
            probe = stack.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError("no port is free")
