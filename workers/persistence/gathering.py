"""What arrives while others of its kind are read waits for them, and is then read together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_MOST: Final = 32  # at once: the answers of all of them are in memory


class Gathering(Generic[Asked, Answer]):
    """Reads for many who ask at the same time. Nobody waits for others to come.

    `read_many` returns an answer, or the error to raise, for each that is asked; what it raises is
    everybody's.
    """

    def __init__(
        self, read_many: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer | Exception]]]
    ) -> None:
        self._read_many = read_many
        self._waiting: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._reading: asyncio.Task[None] | None = None

    async def read(self, asked: Asked) -> Answer:
        """Read with whoever else waits. Raises what is told for this one, or for all."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all())
        return await answer

    async def _read_all(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            told: Sequence[Answer | Exception]
            try:
                told = await self._read_many([asked for asked, _ in together])
            except Exception as error:
                told = [error] * len(together)
            for (_, answer), one in zip(together, told, strict=True):
                if answer.done():  # who asked has gone
                    continue
                if isinstance(one, Exception):
                    answer.set_exception(one)
                else:
                    answer.set_result(one)
        self._reading = None
