"""The deployments that a worker serves, each with the engine of its provider."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from schemas.providers import Providers, default_providers, read_providers
from workers.inference.engines import ENGINES, Engine, Tell


@dataclass(frozen=True, slots=True)
class Deployment:
    """One place that serves a model: `id` is the one in the catalogue and in jobs."""

    id: str
    pool: str
    served_name: str
    engine: Engine


def read_providers_file(path: Path | None) -> Providers:
    """Read the providers file; without one there are the built-in models. Raises ProvidersError."""
    if path is None:
        return default_providers()
    text = path.read_text(encoding="utf-8")
    return read_providers(text, name=str(path), folder=path.parent)


@asynccontextmanager
async def open_deployments(
    providers: Providers, pools: list[str], tell: Tell
) -> AsyncIterator[Mapping[str, Deployment]]:
    """Open the engines of these pools' providers, one for each, for the context's life.

    Raises EngineUnavailable if one can't be opened.
    """
    async with AsyncExitStack() as stack:
        engines: dict[str, Engine] = {}
        deployments: dict[str, Deployment] = {}
        for placement in providers.placements():
            provider = placement.provider
            if provider.pool not in pools:
                continue
            if provider.name not in engines:
                engine = engines[provider.name] = ENGINES[provider.kind](provider)
                stack.push_async_callback(engine.close)
                await engine.open(partial(_tell_of, tell, provider.name))
            deployments[placement.id] = Deployment(
                placement.id, provider.pool, placement.model.name_upstream, engines[provider.name]
            )
        yield deployments


def slots_of(deployments: Mapping[str, Deployment], pool: str) -> int | None:
    """How many runs the engines of a pool can take now; None: any number."""
    engines = {id(here.engine): here.engine for here in deployments.values() if here.pool == pool}
    counts = [engine.slots() for engine in engines.values()]
    return None if None in counts else sum(count or 0 for count in counts)


def _tell_of(tell: Tell, provider: str, word: str) -> None:
    tell(f"{provider}: {word}")
