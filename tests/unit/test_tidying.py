"""Old requests leave the object store, whatever it says to that."""

import asyncio

from schemas.errors import Unavailable
from schemas.objects import REQUESTS
from workers.runtime.tidying import expire


class FailingStore:
    """An object store that fails at first; it counts and tells when it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []
        self.worked = asyncio.Event()

    async def put(self, key: str, data: bytes) -> None:
        raise NotImplementedError

    async def get(self, key: str) -> bytes:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        raise NotImplementedError

    async def expire(self, folder: str, before: float, prefix: str = "") -> int:
        assert not prefix
        self.asked.append((folder, before))
        if len(self.asked) == 1:
            raise Unavailable("the store is away")
        if len(self.asked) == 2:
            raise PermissionError("not our folder")
        self.worked.set()
        return 3


async def test_a_store_that_fails_is_asked_again() -> None:
    store = FailingStore()
    task = asyncio.create_task(expire(store, {REQUESTS: 3600}, every=0))
    async with asyncio.timeout(30):
        await store.worked.wait()
    task.cancel()
    assert {folder for folder, _ in store.asked} == {"requests"}
