"""The engines that every contract test runs on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from schemas.providers import (
    OpenAIOptions,
    OpenAIProvider,
    ProviderModel,
    SimulatedOptions,
    SimulatedProvider,
)
from tests.support.upstream import Upstream, open_upstream
from workers.inference.engines import ENGINES, Engine

MODELS = [ProviderModel(id="our/model", served_name="their-model")]


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on the loop that workers run on; what touches transports, on both."""
    if item.path.name == "test_http.py":
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A scripted upstream."""
    async with open_upstream() as opened:
        yield opened


@pytest.fixture
async def openai_engine(upstream: Upstream) -> AsyncIterator[Engine]:
    """The openai engine on the scripted upstream."""
    engine = ENGINES["openai"](
        OpenAIProvider(
            name="remote",
            kind="openai",
            base_url=upstream.base_url,
            api_key="sk-secret-1234567",  # type: ignore[arg-type]
            models=MODELS,
            options=OpenAIOptions(first_byte_s=2, between_s=2, connect_s=2),
        )
    )
    yield engine
    await engine.close()


@pytest.fixture
async def simulated_engine() -> AsyncIterator[Engine]:
    """The simulated engine, at full speed."""
    engine = ENGINES["simulated"](
        SimulatedProvider(
            name="simulated",
            kind="simulated",
            models=MODELS,
            options=SimulatedOptions(ttft_ms=0, token_ms=0, cues=True),
        )
    )
    yield engine
    await engine.close()


@pytest.fixture(params=["simulated", "openai"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found
