"""A nats-server behind a proxy, through which a client's connection can be ended for a fault."""

import re
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.ports import free_ports
from tests.support.programs import program

_NAME = re.compile(rb'"name": ?"([^"]*)"')


class BusProxy:
    """Passes everything on; knows each client's last connection by the name that it gave."""

    def __init__(self, server_port: int) -> None:
        self._server = ("127.0.0.1", server_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._count: Counter[str] = Counter()
        self._ends: dict[str, tuple[socket.socket, socket.socket]] = {}

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The bus's address, without a user."""
        return f"nats://127.0.0.1:{self.port}"

    def connections(self, name: str) -> int:
        """How often a client has connected."""
        return self._count[name]

    def garble(self, name: str) -> None:
        """Say in a client's name what no server understands: the server ends its connection."""
        self._ends[name][1].sendall(b"\r\nNONSENSE\r\n")

    def accuse(self, name: str, error: str) -> None:
        """Tell a client what a server tells before it ends the connection, and end it."""
        client, server = self._ends[name]
        client.sendall(f"-ERR '{error}'\r\n".encode())
        with suppress(OSError):  # the client may have been faster
            server.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Take connections until closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                _start(self._pass, client, server, client, server)
                _start(self._pass, server, client)

    def close(self) -> None:
        """Take no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _pass(self, source: socket.socket, target: socket.socket, *ends: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if ends and data.startswith(b"CONNECT ") and (found := _NAME.search(data)):
                    name = found[1].decode()
                    self._ends[name] = (ends[0], ends[1])
                    self._count[name] += 1
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def _start(act: Callable[..., None], *arguments: socket.socket) -> None:
    threading.Thread(target=act, args=arguments, daemon=True).start()


@contextmanager
def proxying(server_port: int) -> Iterator[BusProxy]:
    """Run a proxy before a server for the context's life."""
    proxy = BusProxy(server_port)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.close()


@contextmanager
def proxied_nats(folder: Path) -> Iterator[BusProxy]:
    """Run a nats-server without users, and a proxy before it."""
    [port] = free_ports(1)
    server = subprocess.Popen(
        [program("nats-server"), "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert server.stderr is not None
    try:
        for line in server.stderr:
            if b"Server is ready" in line:
                break
        threading.Thread(target=server.stderr.read, daemon=True).start()
        with proxying(port) as proxy:
            yield proxy
    finally:
        server.kill()
        server.wait(10)
