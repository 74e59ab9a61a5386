"""The providers file while it is edited: read again when it has changed, used if it is right.

An editor may replace the file or write it piece by piece: what is wrong is reported once, when it
has stayed so from one look to the next. What was right before goes on meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from schemas.errors import JanError
from schemas.providers import Providers, ProvidersError, read_providers
from workers.runtime import beside

logger = structlog.get_logger()

LOOK_SECONDS = 1.0
_PATIENCE = 5.0  # seconds; a new engine may load for longer, and nobody waits for that

OnChange = Callable[[Providers], Awaitable[None]]
OnError = Callable[[str], None]
_Stamp = tuple[int, int, int]


class ProvidersFile:
    """Watches one file; `on_change` is called with what it says, `on_error` with what is wrong.

    `known` is what is in use already. A file that is not there changes nothing.
    """

    def __init__(
        self, path: Path, known: Providers, on_change: OnChange, on_error: OnError
    ) -> None:
        self._path = path
        self._known = known
        self._on_change = on_change
        self._on_error = on_error
        self._stamp: _Stamp | None = None
        self._text: str | None = None
        self._suspect: str | None = None  # wrong at the last look
        self._reported: str | None = None
        self._looking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Look every second, until cancelled."""
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                await self.look()
        finally:
            if self._looking is not None:
                self._looking.cancel()

    async def look(self) -> None:
        """Take a change, if there is one; returns before that if it takes long."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        done, _ = await asyncio.wait({self._looking}, timeout=_PATIENCE)
        for looking in done:
            looking.result()

    async def _look(self) -> None:
        stamp = await asyncio.to_thread(self._look_at)
        if stamp == self._stamp and self._suspect is None:
            return
        text = await asyncio.to_thread(self._read)
        self._stamp = stamp
        if text is None or text == self._text:
            self._suspect = None
            return
        await self._take(text)

    async def _take(self, text: str) -> None:
        try:
            providers = read_providers(text, name=str(self._path))
            if providers != self._known:
                await self._on_change(providers)
                self._known = providers
        except (ProvidersError, JanError) as error:
            self._doubt(text, error.message if isinstance(error, JanError) else str(error))
            return
        self._text, self._suspect, self._reported = text, None, None

    def _doubt(self, text: str, error: str) -> None:
        if text == self._reported:
            self._suspect = None
        elif text == self._suspect:
            self._reported, self._suspect = text, None
            self._on_error(error)
        else:
            self._suspect = text

    def _look_at(self) -> _Stamp | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> str | None:
        try:
            return self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None


@asynccontextmanager
async def watch_providers(file: ProvidersFile) -> AsyncIterator[None]:
    """Watch the file for the context's life."""
    async with beside(file.run()):
        yield
