"""Routing from the edge to upstreams: shares, faults, healing, needs, reload. All parts are real."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from bus import open_bus
from schemas.providers import Providers, read_providers
from tests.support.edge import edge_settings, running_edge, store_key
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.upstream import Answer, Fail, Part, Silent, Stall, Upstream, open_upstream
from workers.inference.app import open_inference
from workers.inference.settings import InferenceSettings
from workers.runtime import Presence, create_registry, open_presence

MODEL = "m"
NAMES = ("one", "two", "three")
WEIGHTS = dict(zip(NAMES, (5, 3, 2), strict=True))


@dataclass
class Site:
    """An edge, its workers and three upstreams, each a deployment of one model."""

    nats: NatsServer
    upstreams: dict[str, Upstream]
    http: httpx.AsyncClient
    file: Path

    async def ask(self, **body: Any) -> httpx.Response:
        """One chat."""
        asked = {"model": MODEL, "messages": [{"role": "user", "content": "!tokens 2"}], **body}
        return await self.http.post("/v1/chat/completions", json=asked)

    async def flood(self, count: int, unstreamed: bool = True) -> Counter[int]:
        """Many chats, 16 at once; how often there was which status, 0: an error in a stream."""
        statuses: Counter[int] = Counter()
        numbers = iter(range(count))

        async def one_after_the_other() -> None:
            for number in numbers:
                answer = await self.ask(stream=not unstreamed or number % 2 == 0)
                good = b'"error"' not in answer.content
                statuses[answer.status_code if good else 0] += 1

        await asyncio.gather(*(one_after_the_other() for _ in range(16)))
        return statuses

    def shares(self) -> dict[str, float]:
        """How many percent of all answers came from which upstream; forgets the calls."""
        counts = {
            name: sum(call.ended_at is not None and call.chunks != -1 for call in upstream.calls)
            for name, upstream in self.upstreams.items()
        }
        for upstream in self.upstreams.values():
            upstream.reset()
        return {name: 100 * count / max(1, sum(counts.values())) for name, count in counts.items()}

    async def deployments(self) -> dict[str, dict[str, Any]]:
        """What an administrator sees, by provider."""
        answer = await self.http.get("/v1/admin/providers")
        return {one["provider"]: one for one in answer.json()["data"]}

    async def until(self, seen: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, Any]:
        """Look as an administrator, and chat in between, until that is seen."""
        async with asyncio.timeout(20):
            while not seen(found := await self.deployments()):
                await self.ask(stream=True)
        return found


def file_of(upstreams: dict[str, Upstream], **routing: Any) -> str:
    """A providers file with a deployment at each upstream."""
    providers = [
        {
            "name": name,
            "kind": "openai",
            "base_url": upstream.base_url,
            "options": {"first_byte_s": 0.4},
            "health_check": {"every_s": 0},
            "models": [{"id": MODEL, "weight": WEIGHTS[name], "capabilities": ["chat", "tools"]}],
        }
        for name, upstream in upstreams.items()
    ]
    return msgspec.json.encode({"providers": providers, "routing": routing}).decode()


def changed(text: str, change: Callable[[dict[str, Any]], None]) -> str:
    """The file's text after an edit of its first provider."""
    data = msgspec.json.decode(text)
    change(data["providers"][0])
    return msgspec.json.encode(data).decode()


def without_probes() -> dict[str, Any]:
    """Breakers that heal within moments."""
    return {"breaker": {"open_s": 0.3, "open_max_s": 1}}


@asynccontextmanager
async def open_site(folder: Path, edit: Callable[[str], str] = str) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        nats = stack.enter_context(running_nats(folder / "nats"))
        upstreams = {name: await enter(open_upstream()) for name in NAMES}
        file = folder / "providers.yaml"
        file.write_text(edit(file_of(upstreams, **without_probes())))
        providers = read_providers(file.read_text())
        await migrate(nats, providers)
        await enter(worker(nats, providers, file))
        url = await enter(running_edge(edge_settings(nats, folder)))
        key, _ = await store_key(nats, scopes=["admin"])
        headers = {"authorization": f"Bearer {key}"}
        http = await enter(httpx.AsyncClient(base_url=url, headers=headers, timeout=30))
        yield Site(nats, upstreams, http, file)


@asynccontextmanager
async def worker(
    nats: NatsServer, providers: Providers, file: Path, name: str = "inference-1"
) -> AsyncIterator[None]:
    settings = InferenceSettings(
        nats_url=nats.url("inference"),
        name=name,
        data=file.parent,
        providers=file,
        drain_timeout=5.0,
        _env_file=None,
    )
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        bus = await enter(open_bus(nats.url("inference"), name=name))
        presence = Presence(bus, settings, "inference", 0, lambda _: None)
        await enter(open_presence(presence))
        registry = create_registry()
        await presence.opened(await enter(open_inference(settings, providers, bus, registry)))
        yield


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as opened:
        yield opened


def near(shares: dict[str, float], **wanted: float) -> bool:
    """Whether each share is within three points of what it should be."""
    return all(abs(shares[name] - share) <= 3 for name, share in wanted.items())


FAULTS: dict[str, Part] = {
    "an error": Fail(500),
    "a rate limit": Fail(429, headers={"retry-after": "1"}),
    "silence": Silent(),
    "silence after the head": Stall(after=0),
}


@pytest.mark.requirement("routing.failover")
@pytest.mark.requirement("routing.shares")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_fault_of_one_deployment_is_seen_by_no_client_and_heals(
    site: Site, fault: Part
) -> None:
    # A whole answer may take as long as the run may: silence is told from thinking in streams only.
    unstreamed = isinstance(fault, Fail)
    site.upstreams["one"].always = fault
    assert await site.flood(1000, unstreamed) == {200: 1000}
    faulty = len(site.upstreams["one"].calls)
    site.upstreams["one"].calls.clear()
    assert near(site.shares(), two=60, three=40)
    assert faulty < 100
    seen = await site.deployments()
    assert seen["one"]["breaker"]["state"] != "closed"
    assert seen["one"]["failures"] >= 1

    site.upstreams["one"].always = Answer()
    await site.until(lambda seen: seen["one"]["breaker"]["state"] == "closed")
    site.shares()
    assert await site.flood(1000) == {200: 1000}
    assert near(site.shares(), one=50, two=30, three=20)
