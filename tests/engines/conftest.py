"""The engines that every contract test runs on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import uvloop

from schemas.providers import (
    AnthropicOptions,
    AnthropicProvider,
    LlamacppOptions,
    LlamacppProvider,
    OpenAIOptions,
    OpenAIProvider,
    ProviderModel,
    SimulatedOptions,
    SimulatedProvider,
)
from tests.support.anthropic_upstream import open_anthropic_upstream
from tests.support.upstream import Upstream, open_upstream
from workers.inference.engines import ENGINES, Engine

# What an engine can't do, by the names that tests need. "cues": obeys `!fail 500` and its like;
# "content": says what the prompt asks for. The others are parts of OpenAI's API.
_CHAT_ONLY = frozenset({"completions", "echo", "token_prompts", "embeddings"})
LACKS: Mapping[str, frozenset[str]] = {
    "simulated": frozenset(),
    "openai": frozenset(),
    "anthropic": _CHAT_ONLY | {"n", "seed", "logprobs", "json_object"},
    "llamacpp": frozenset({"cues", "content", "echo"}),
}

MODELS = [ProviderModel(id="our/model", served_name="their-model")]


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on the loop that workers run on; what touches transports, on both."""
    if item.path.name in ("test_http.py", "test_dial.py"):
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
async def anthropic_upstream() -> AsyncIterator[Upstream]:
    """A scripted upstream that speaks Messages."""
    async with open_anthropic_upstream() as opened:
        yield opened


@pytest.fixture
async def anthropic_engine(anthropic_upstream: Upstream) -> AsyncIterator[Engine]:
    """The anthropic engine on its scripted upstream."""
    engine = ENGINES["anthropic"](
        AnthropicProvider(
            name="remote",
            kind="anthropic",
            base_url=anthropic_upstream.base_url,
            api_key="sk-ant-secret-1234567",  # type: ignore[arg-type]
            models=MODELS,
            options=AnthropicOptions(first_byte_s=2, between_s=2, connect_s=2, max_tokens=100_000),
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


@pytest.fixture
async def llamacpp_engine() -> AsyncIterator[Engine]:
    """The llamacpp engine on the model that comes along: it loads in a tenth of a second."""
    engine = ENGINES["llamacpp"](llamacpp_provider(embeddings=True, pooling="mean"))
    await engine.open(print)
    yield engine
    await engine.close()


def llamacpp_provider(path: str = "builtin:jan-tiny", **options: Any) -> LlamacppProvider:
    """A provider of the llamacpp engine, on the model that comes along unless told otherwise."""
    return LlamacppProvider(
        name="local",
        kind="llamacpp",
        models=MODELS,
        options=LlamacppOptions(path=path, **options),
    )


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn, of those that have what the test needs."""
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a contract test on every kind that has what its `needs` marks name."""
    if "engine" in metafunc.fixturenames:
        needs = {name for mark in metafunc.definition.iter_markers("needs") for name in mark.args}
        kinds = [kind for kind, lacks in LACKS.items() if not needs & lacks]
        metafunc.parametrize("engine", kinds, indirect=True)
