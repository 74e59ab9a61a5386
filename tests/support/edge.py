"""A real edge on a real bus, in the test's own loop: uvicorn, socket and all."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bus.buckets import Bucket
from bus.opening import open_bus
from edge.server import serve
from edge.settings import EdgeSettings
from schemas import ids, subjects
from schemas.keys import KeyLimits, KeyRecord, encode_record, hash_key, new_key
from tests.support.nats import NatsServer

SECRET = secrets.token_hex(32)


def edge_settings(nats: NatsServer, data: Path, **changes: Any) -> EdgeSettings:
    """Settings of an edge that stops at once."""
    told = {"name": "edge-1", "port": 0, "drain_timeout": 0.1, "api_key_secret": SECRET}
    return EdgeSettings(nats_url=nats.url("edge"), data=data, **(told | changes))


@asynccontextmanager
async def running_edge(settings: EdgeSettings) -> AsyncIterator[str]:
    """Serve for the context's life; yields the edge's address."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(settings, on_ready=port.set_result))
    await asyncio.wait([serving, port], timeout=20, return_when=asyncio.FIRST_COMPLETED)
    if not port.done():
        serving.cancel()
        await serving
    try:
        yield f"http://127.0.0.1:{port.result()}"
    finally:
        serving.cancel()
        await asyncio.wait([serving], timeout=10)


async def store_key(nats: NatsServer, **changes: Any) -> tuple[str, KeyRecord]:
    """Make an API key as the command line does; return it and its record."""
    key = new_key()
    record = KeyRecord(
        **(
            {
                "id": ids.new_id("key_"),
                "name": "test",
                "principal": ids.new_id("user_"),
                "prefix": "sk_live_",
                "suffix": key[-4:],
                "created": 0.0,
                "limits": KeyLimits(),
            }
            | changes
        )
    )
    await put_key(nats, key, record)
    return key, record


async def put_key(nats: NatsServer, key: str, record: KeyRecord) -> None:
    """Store a key's record, over an older one."""
    async with open_bus(nats.url("cli"), name="test") as bus:
        name = hash_key(SECRET.encode(), key)
        await Bucket(bus, subjects.KV_KEYS).put(name, encode_record(record))
