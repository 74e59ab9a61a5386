"""The process: a socket, uvicorn on it, signals, and a stop in order."""

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import FrameType
from typing import Final

import structlog
import uvicorn

from edge.app import create_app, open_edge
from edge.protocol import KEEP_ALIVE, Protocol
from edge.settings import EdgeSettings
from edge.state import EdgeState
from schemas.errors import BusUnavailable

logger = structlog.get_logger()

_CLOSE_TIME: Final = 0.3  # seconds in which clients must have taken what is left after the drain


class _Server(uvicorn.Server):
    """uvicorn's server with a drain before its shutdown. A second signal ends it at once."""

    def __init__(
        self,
        config: uvicorn.Config,
        open_state: Callable[[], Awaitable[EdgeState]],
        drain_timeout: float,
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._open_state = open_state
        self._drain_timeout = drain_timeout
        self._on_ready = on_ready
        self.fault: BusUnavailable | None = None  # why it stops, if nobody has told it to

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open what requests use, then listen. Raises what keeps the edge from starting."""
        self._state = await self._open_state()
        self._state["bus"].on_closed(self._on_bus_closed)
        self.lifespan.state.update(self._state)
        await super().startup(sockets)
        # What was made until now stays: looking through it in each collection would delay tokens.
        gc.collect()
        gc.freeze()
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody new, let streams end or go elsewhere, then close."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        presence, runs = self._state["presence"], self._state["runs"]
        presence.draining = True
        draining = asyncio.gather(
            presence.announce(),
            runs.drain(self._drain_timeout),
            self._state["tool_calls"].drain(self._drain_timeout),
        )
        while not draining.done() and not self.force_exit:
            await asyncio.wait([draining], timeout=0.1)
        draining.cancel()
        await self._close_connections()
        await super().shutdown(sockets)

    async def _close_connections(self) -> None:
        """Let answers end that are about to, then hang up on who does not read them."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _CLOSE_TIME
        while (  # noqa: ASYNC110 (uvicorn tells nobody when a connection has closed)
            self.server_state.connections and loop.time() < until and not self.force_exit
        ):
            await asyncio.sleep(0.02)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def _on_bus_closed(self, error: BusUnavailable) -> None:
        """Stop: whoever starts this process again gives it another connection."""
        logger.error(error.message)
        self.fault = error
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop in order at the first signal, at once at the second."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


async def serve(settings: EdgeSettings, *, on_ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT, or until cancelled, then drain. `on_ready` is told the port.

    Raises OSError if the address can't be had, BusUnavailable if the bus can't, or ends the
    connection.
    """
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(open_socket(settings.host, settings.port))
        port: int = listener.getsockname()[1]
        config = uvicorn.Config(
            create_app(settings),
            http=Protocol,
            ws="wsproto",
            ws_max_size=settings.max_body,
            lifespan="off",
            log_config=None,
            log_level="error",  # what clients do wrong is told to them
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.forwarded_allow_ips),
            forwarded_allow_ips=settings.forwarded_allow_ips or None,
            timeout_keep_alive=int(KEEP_ALIVE),
            timeout_graceful_shutdown=1,
            backlog=2048,
        )
        server = _Server(
            config,
            lambda: stack.enter_async_context(open_edge(settings, port)),
            settings.drain_timeout,
            lambda: on_ready(port),
        )
        try:
            await server.serve([listener])
        except asyncio.CancelledError:
            if server.started:
                await server.shutdown([listener])
            raise
    if server.fault is not None:
        raise server.fault


def open_socket(host: str, port: int) -> socket.socket:
    """Bind and listen, so that the port is known, and held, before anything else starts."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
