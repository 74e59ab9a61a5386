"""A server that answers requests with scripted bytes, in the segments and with the end it is told.

async with open_raw_server(good) as server:
    server.script(Script([b"HTTP/1.1 200 OK\\r\\n"], end="rst"))
"""

import asyncio
import contextlib
import re
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

End = Literal["keep", "fin", "half", "rst", "hang"]
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Script:
    """One answer: `keep` waits for the next request, `half` closes only its own direction."""

    segments: Sequence[bytes]
    end: End = "keep"
    pause: float = 0.0  # seconds before each segment


class RawServer:
    """What it was asked, and how it answers."""

    def __init__(self, good: Script) -> None:
        self.requests: list[bytes] = []
        self.served: list[Script] = []
        self.accepted = 0  # connections ever
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()  # one for each open connection
        self._good = good
        self._scripts: deque[Script] = deque()
        self._changed = asyncio.Condition()

    def script(self, *scripts: Script) -> None:
        """Say how to answer the next requests; without, it answers well."""
        self._scripts.extend(scripts)

    async def settle(self, connections: int) -> None:
        """Wait until no more than so many connections are open."""
        async with asyncio.timeout(30), self._changed:
            await self._changed.wait_for(lambda: len(self.tasks) <= connections)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.accepted += 1
        try:
            while True:
                await self._read(reader)
                script = self._scripts.popleft() if self._scripts else self._good
                self.served.append(script)
                for segment in script.segments:
                    await asyncio.sleep(script.pause)
                    writer.write(segment)
                    await writer.drain()
                if script.end != "keep":
                    await self._end(script.end, reader, writer)
                    return
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()
            self.tasks.discard(task)
            async with self._changed:
                self._changed.notify_all()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        self.requests.append(head + await reader.readexactly(int(length[1]) if length else 0))

    async def _end(
        self, end: End, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if end == "rst":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return
        if end == "half":
            writer.write_eof()
        if end != "fin":
            await reader.read()


@contextlib.asynccontextmanager
async def open_raw_server(good: Script, host: str = "127.0.0.1") -> AsyncIterator[RawServer]:
    """Serve on a free port."""
    server = RawServer(good)
    listening = await asyncio.start_server(server.serve, host, 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in list(server.tasks):
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)
