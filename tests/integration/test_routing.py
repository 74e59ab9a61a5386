"""Routing from the edge to upstreams: shares, faults, healing, needs, reload; all is real."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from bus import open_bus
from cli.discovery import discover_all
from schemas.providers import Providers, read_providers
from tests.support.edge import edge_settings, running_edge, store_key
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.upstream import Answer, Fail, Part, Silent, Stall, Upstream, open_upstream
from tests.support.waiting import until
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


async def test_a_deployment_that_hangs_delays_few_runs(site: Site) -> None:
    site.upstreams["one"].always = Stall(after=0)
    assert await site.flood(200, unstreamed=False) == {200: 200}
    assert len(site.upstreams["one"].calls) < 40


@pytest.mark.requirement("routing.retry_after")
async def test_when_all_ask_to_be_left_alone_the_client_learns_for_how_long(site: Site) -> None:
    for upstream in site.upstreams.values():
        upstream.always = Fail(429, headers={"retry-after": "50"})
    for _ in range(3):
        answer = await site.ask()
        assert answer.status_code == 429
        assert 40 < int(answer.headers["retry-after"]) <= 50
    assert [len(upstream.calls) for upstream in site.upstreams.values()] == [1, 1, 1]


@pytest.mark.requirement("routing.retry")
async def test_a_moment_in_which_all_fail_is_seen_by_no_client(site: Site) -> None:
    for upstream in site.upstreams.values():
        upstream.script(Fail(503), Fail(500))
    answer = await site.ask()
    assert answer.status_code == 200
    assert sum(len(upstream.calls) for upstream in site.upstreams.values()) == 7


@pytest.mark.requirement("routing.breaker")
async def test_what_one_worker_finds_out_all_know_and_it_outlives_the_worker(
    site: Site, tmp_path: Path
) -> None:
    site.upstreams["one"].always = Fail(500)
    await site.flood(30)
    providers = read_providers(site.file.read_text())
    async with worker(site.nats, providers, site.file, "inference-2"):
        seen = await site.deployments()
        assert seen["one"]["breaker"]["state"] != "closed"
        site.upstreams["one"].always = Answer()
        await site.until(lambda seen: seen["one"]["breaker"]["state"] == "closed")


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {"type": "function", "function": {"name": "f"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}


@pytest.mark.requirement("routing.capabilities")
async def test_what_no_deployment_can_do_is_refused_by_its_field(site: Site) -> None:
    look = [{"role": "user", "content": [{"type": "text", "text": "look"}, IMAGE]}]
    for body, param in (
        ({"messages": look}, "messages[0].content[1]"),
        ({"response_format": SCHEMA}, "response_format"),
    ):
        answer = await site.ask(**body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, param)
        assert error["code"] == "model_not_supported"
    assert (await site.ask(tools=[TOOL], tool_choice="none")).status_code == 200
    assert (await site.ask(reasoning_effort="high")).status_code == 200


@pytest.mark.requirement("routing.capabilities")
async def test_only_deployments_that_can_do_what_is_needed_get_it(tmp_path: Path) -> None:
    def without_tools(text: str) -> str:
        return changed(text, lambda one: one["models"][0].update(capabilities=["chat"]))

    async with open_site(tmp_path, without_tools) as site:
        for _ in range(10):
            assert (await site.ask(tools=[TOOL])).status_code == 200
        assert not site.upstreams["one"].calls
        models = (await site.http.get("/v1/models")).json()["data"]
        assert models[0]["capabilities"] == ["chat", "tools"]


@pytest.mark.requirement("routing.limits")
async def test_a_limit_sends_runs_elsewhere(tmp_path: Path) -> None:
    def limited(text: str) -> str:
        return changed(text, lambda one: one["models"][0].update(limits={"rpm": 7}))

    async with open_site(tmp_path, limited) as site:
        assert await site.flood(60) == {200: 60}
        assert len(site.upstreams["one"].calls) == 7


@pytest.mark.requirement("routing.probes")
async def test_a_provider_that_does_not_answer_a_probe_gets_no_runs_until_it_does(
    tmp_path: Path,
) -> None:
    def probed(text: str) -> str:
        check = {"every_s": 0.3, "timeout_s": 1}
        return changed(text, lambda one: one.update(health_check=check))

    async with open_site(tmp_path, probed) as site:
        upstream = site.upstreams["one"]
        upstream.check_fails_with = 503
        await until(lambda: state_is(site, "open"))
        seen = (await site.deployments())["one"]
        assert seen["breaker"]["reason"].startswith("probe: ")
        upstream.calls.clear()
        upstream.check_fails_with = 0
        await site.until(lambda seen: seen["one"]["breaker"]["state"] == "closed")
        await site.until(lambda seen: (seen["one"]["last_probe"] or {}).get("ok", False))


@pytest.mark.requirement("routing.admin")
async def test_providers_are_shown_to_administrators_only_and_without_secrets(site: Site) -> None:
    key, _ = await store_key(site.nats)
    others = {"authorization": f"Bearer {key}"}
    refused = await site.http.get("/v1/admin/providers", headers=others)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_required")
    assert (await site.http.get("/v1/admin/providers", headers={"authorization": "x"})).is_error

    assert await site.flood(30) == {200: 30}
    seen = await site.until(lambda seen: seen["one"]["requests"] >= 10)
    one = seen["one"]
    assert (one["id"], one["model"], one["kind"], one["pool"]) == ("one/m", "m", "openai", "remote")
    assert one["first_token"]["p95"] >= one["first_token"]["p50"] > 0
    assert one["workers"] == ["inference-1"]
    assert one["breaker"] == {"state": "closed", "until": None, "reason": None}
    assert "base_url" not in one


@pytest.mark.requirement("models.status")
async def test_a_models_status_says_whether_it_can_be_used_now(site: Site) -> None:
    async def status() -> str:
        return str((await site.http.get(f"/v1/models/{MODEL}")).json()["status"])

    assert await status() == "live"
    for upstream in site.upstreams.values():
        upstream.always = Fail(429, headers={"retry-after": "50"})
    await site.ask()

    async def is_down() -> bool:
        return await status() == "down"

    await until(is_down)


async def state_is(site: Site, state: str) -> bool:
    """Whether the first deployment's breaker is in this state."""
    return bool((await site.deployments())["one"]["breaker"]["state"] == state)


async def edited(site: Site, edit: Callable[[dict[str, Any]], None]) -> None:
    """Replace the file as editors do, and migrate as the supervisor does."""
    text = changed(site.file.read_text(), edit)
    beside = site.file.with_suffix(".new")
    beside.write_text(text)
    beside.replace(site.file)
    await migrate(site.nats, read_providers(text))


async def listed(site: Site, *models: str) -> None:
    """Wait until the edge lists these models."""

    async def are_listed() -> bool:
        data = (await site.http.get("/v1/models")).json()["data"]
        return {model["id"] for model in data} == set(models)

    await until(are_listed)


@pytest.mark.requirement("routing.reload")
async def test_a_model_that_is_added_is_served_without_a_restart(site: Site) -> None:
    def add(one: dict[str, Any]) -> None:
        one["models"].append({"id": "new", "served_name": "upstream-name"})

    await edited(site, add)
    await listed(site, MODEL, "new")
    assert (await site.ask(model="new")).status_code == 200
    assert site.upstreams["one"].calls[-1].body["model"] == "upstream-name"


@pytest.mark.requirement("routing.reload")
async def test_runs_in_progress_keep_the_engine_that_an_edit_takes_away(site: Site) -> None:
    def only_one(one: dict[str, Any]) -> None:
        one["models"].append({"id": "slow"})

    await edited(site, only_one)
    await listed(site, MODEL, "slow")
    upstream = site.upstreams["one"]
    upstream.pace = 0.05
    tokens = [{"role": "user", "content": "!tokens 60"}]
    running = asyncio.create_task(site.ask(model="slow", stream=True, messages=tokens))
    await asyncio.wait_for(upstream.count(1), 5)

    def move(one: dict[str, Any]) -> None:
        one["base_url"] = site.upstreams["two"].base_url

    await edited(site, move)
    async with asyncio.timeout(30):
        while not site.upstreams["two"].calls:
            await site.ask(model="slow")
    answer = await running
    assert answer.text.rstrip().endswith("data: [DONE]")
    assert len([call for call in upstream.calls if call.body["model"] == "slow"]) >= 1


@pytest.mark.requirement("routing.reload")
async def test_a_wrong_edit_changes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.file.write_text("providers:\n  - name: one\n    kind: openai\n    base_ulr: http://x\n")
    heard = ""
    async with asyncio.timeout(6):
        while "providers stay as they were" not in heard:
            assert (await site.ask()).status_code == 200
            heard += capsys.readouterr().out
            await asyncio.sleep(0.05)
    assert "providers.yaml:" in heard
    assert (await site.ask()).status_code == 200


@pytest.mark.requirement("routing.discovery")
async def test_models_that_a_provider_has_itself_are_served(tmp_path: Path) -> None:
    def discovering(text: str) -> str:
        wanted = {"exclude": ["*-secret"]}
        return changed(text, lambda one: one.update(discover=wanted))

    async with open_site(tmp_path, discovering) as site:
        upstream = site.upstreams["one"]
        upstream.models = ["m", "org/found", "found-secret"]
        providers = read_providers(site.file.read_text())
        discovered, faults = await discover_all(providers)
        assert (discovered, faults) == ({"one": upstream.models}, [])
        await migrate(site.nats, providers, discovered)
        await listed(site, MODEL, "org/found")
        assert (await site.ask(model="org/found")).status_code == 200
        assert upstream.calls[-1].body["model"] == "org/found"
        assert (await site.ask(model="found-secret")).status_code == 404

        upstream.check_fails_with = 500
        discovered, faults = await discover_all(providers)
        assert (discovered, len(faults)) == ({}, 1)
        assert not [
            change
            for change in await migrate(site.nats, providers, discovered)
            if "catalogue" in change.what
        ]
        assert (await site.ask(model="org/found")).status_code == 200

        upstream.check_fails_with = 0
        upstream.models = ["m"]
        await migrate(site.nats, providers, (await discover_all(providers))[0])
        await listed(site, MODEL)
