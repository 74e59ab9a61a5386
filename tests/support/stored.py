"""An edge and a persistence worker in the test's own process: what is stored, over real HTTP."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bus import Bucket, Bus
from edge import stored as edge_stored
from schemas import subjects
from tests.support.edge import edge_settings, running_edge, store_key
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.persistence import running_worker
from tests.support.postgres import PostgresServer


class Stored:
    """The server; `client` makes the client of a new user."""

    def __init__(self, nats: NatsServer, data: Path, url: str, stack: AsyncExitStack) -> None:
        self.data = data
        self.url = url
        self.nats = nats
        self._stack = stack

    async def client(self, **headers: str) -> httpx.AsyncClient:
        """A client with a key of its own; its paths begin below /v1."""
        key, _ = await store_key(self.nats)
        return await self.anybody(authorization=f"Bearer {key}", **headers)

    async def anybody(self, **headers: str) -> httpx.AsyncClient:
        """A client without a credential, unless one is among the headers."""
        client = httpx.AsyncClient(base_url=f"{self.url}/v1", headers=headers, timeout=60)
        return await self._stack.enter_async_context(client)


@asynccontextmanager
async def running_stored(
    postgres: PostgresServer, folder: Path, **settings: Any
) -> AsyncIterator[Stored]:
    """Run a bus, a persistence worker and an edge for the context's life."""
    with running_nats(folder / "nats") as nats:
        await migrate(nats)
        told = edge_settings(nats, folder / "edge", **settings)
        async with (
            postgres.database() as database,
            running_worker(nats, database),
            running_edge(told) as url,
            AsyncExitStack() as stack,
        ):
            yield Stored(nats, told.data, url, stack)


def message(text: str, role: str = "user") -> dict[str, str]:
    """A message as a client sends it."""
    return {"type": "message", "role": role, "content": text}


def stored_item(words: str) -> msgspec.Raw:
    """A user's message as a command carries it."""
    content = [{"type": "input_text", "text": words}]
    item = {**message(words), "status": "completed", "content": content}
    return msgspec.Raw(msgspec.json.encode(item))


def of_edge(bus: Bus) -> edge_stored.Stored:
    """What an edge alone reads and writes with."""
    positions = edge_stored.Positions(Bucket(bus, subjects.KV_POSITIONS), lambda: False)
    return edge_stored.Stored(bus, positions, patience=5.0)


def talk(count: int) -> list[dict[str, str]]:
    """Messages of a user and an assistant in turn, numbered."""
    return [message(f"{n}", "user" if n % 2 == 0 else "assistant") for n in range(count)]


async def new_conversation(client: httpx.AsyncClient, items: list[Any], **more: Any) -> str:
    """Make a conversation; return its path."""
    answer = await client.post("/conversations", json={"items": items, **more})
    assert answer.status_code == 200, answer.text
    return f"/conversations/{answer.json()['id']}"


async def items_of(client: httpx.AsyncClient, path: str, branch: str = "") -> list[dict[str, Any]]:
    """The items of a branch, oldest first; 100 at most."""
    query = {"order": "asc", "limit": 100} | ({"branch": branch} if branch else {})
    answer = await client.get(f"{path}/items", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


async def texts_of(client: httpx.AsyncClient, path: str, branch: str = "") -> str:
    """What was said on a branch."""
    return " ".join(text(item) for item in await items_of(client, path, branch))


def text(item: dict[str, Any]) -> str:
    """What a message says."""
    return str(item["content"][0]["text"])


def error_of(answer: httpx.Response) -> tuple[int, str | None]:
    """The status of a refusal, and the field that it names."""
    return answer.status_code, answer.json()["error"]["param"]
