"""Looks at what an edge depends on."""

import asyncio
from typing import cast

from bus.objects import ObjectStore
from edge.routes.health import ObjectsProbe
from schemas.errors import NotFound


class Store:
    """An object store that answers after a turn of the loop."""

    def __init__(self) -> None:
        self.asked = 0

    async def get(self, key: str) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)
        raise NotFound(f"no object {key}")


async def test_two_who_ask_at_once_hear_the_same() -> None:
    probe = ObjectsProbe(cast(ObjectStore, Store()))
    assert all(await asyncio.gather(probe.is_up(), probe.is_up()))


async def test_the_store_is_not_looked_at_for_each_question() -> None:
    store = Store()
    probe = ObjectsProbe(cast(ObjectStore, store))
    for _ in range(5):
        assert await probe.is_up()
    assert store.asked == 1
