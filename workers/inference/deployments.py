"""The deployments that a worker serves, each with the engine of its provider.

The providers may be replaced while runs go on: new runs find the new deployments, an engine whose
provider has not changed stays, and one that is no longer used is closed when its last run leaves.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from schemas.errors import JanError
from schemas.providers import (
    AnyProvider,
    Limits,
    Placement,
    Providers,
    default_providers,
    discovered_model,
    read_providers,
)
from workers.inference.engines import ENGINES, Engine, Tell

logger = structlog.get_logger()

# What of a model an engine does not know: a change of it leaves the engine as it is.
_NO_LIMITS = Limits()
_NOT_THE_ENGINES = {"weight", "priority", "limits", "capabilities"}


@dataclass(slots=True, eq=False)
class Host:
    """A provider's engine while it is open, and how many runs use it."""

    provider: AnyProvider
    engine: Engine
    users: int = 0
    retired: bool = False


@dataclass(frozen=True, slots=True)
class Deployment:
    """One place that serves a model: `id` is the one in the catalogue and in jobs.

    `has_tools` is False if its model is known to have none.
    """

    id: str
    pool: str
    served_name: str
    engine: Engine
    limits: Limits = _NO_LIMITS
    host: Host | None = None
    has_tools: bool = True


class Deployments:
    """What this worker serves now; `pools` names those that it works for, empty: all."""

    def __init__(self, pools: list[str] | None = None) -> None:
        self._only = pools or []
        self._hosts: dict[str, Host] = {}
        self._found: dict[str, Deployment] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Deployment]:
        return iter(self._found.values())

    def find(self, deployment: str) -> Deployment | None:
        """Look one up: one of the file, or one that its provider may have by itself."""
        found = self._found.get(deployment)
        if found is None:
            name, _, model_id = deployment.partition("/")
            host = self._hosts.get(name)
            model = discovered_model(host.provider, model_id) if host else None
            if host and model:
                found = _to_deployment(Placement(deployment, host.provider, model), host)
                self._found[deployment] = found
        return found

    def serves(self, pool: str) -> bool:
        """Whether this worker works for a pool."""
        return pool in self.pools()

    def pools(self) -> list[str]:
        """The pools that it works for, each once."""
        return list(dict.fromkeys(host.provider.pool for host in self._hosts.values()))

    def providers(self) -> list[Host]:
        """The providers that are open."""
        return list(self._hosts.values())

    def engines(self) -> list[Engine]:
        """The engines that are open."""
        return [host.engine for host in self._hosts.values()]

    async def replace(self, providers: Providers, tell: Tell) -> None:
        """Serve what these providers say from now on.

        Raises EngineUnavailable if an engine can't be opened: then everything stays as it was.
        """
        hosts: dict[str, Host] = {}
        opened: list[Host] = []
        try:
            for provider in providers.providers:
                if self._only and provider.pool not in self._only:
                    continue
                host = self._hosts.get(provider.name)
                if host is None or _identity(host.provider) != _identity(provider):
                    host = Host(provider, ENGINES[provider.kind](provider))
                    opened.append(host)
                    await host.engine.open(partial(_tell_of, tell, provider.name))
                hosts[provider.name] = host
        except BaseException:
            for host in opened:
                await host.engine.close()
            raise
        self._take(providers, hosts)

    def _take(self, providers: Providers, hosts: dict[str, Host]) -> None:
        before, self._hosts = self._hosts, hosts
        self._found = {}
        for placement in providers.placements():
            host = hosts.get(placement.provider.name)
            if host is not None:
                self._found[placement.id] = _to_deployment(placement, host)
        for provider in providers.providers:
            if provider.name in hosts:
                hosts[provider.name].provider = provider
        for host in before.values():
            if hosts.get(host.provider.name) is not host:
                host.retired = True
                self._close_if_idle(host)

    def enter(self, deployment: Deployment) -> None:
        """A run uses the deployment's engine until `leave`."""
        if deployment.host is not None:
            deployment.host.users += 1

    def leave(self, deployment: Deployment) -> None:
        """A run does not use it any more."""
        if deployment.host is not None:
            deployment.host.users -= 1
            self._close_if_idle(deployment.host)

    async def close(self) -> None:
        """Close all engines."""
        for host in self._hosts.values():
            await host.engine.close()
        if self._closing:
            await asyncio.wait(self._closing)

    def _close_if_idle(self, host: Host) -> None:
        if host.retired and not host.users:
            closing = asyncio.create_task(_close(host))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


async def _close(host: Host) -> None:
    logger.info("provider is closed", provider=host.provider.name)
    try:
        await host.engine.close()
    except JanError as error:
        logger.warning("provider can't be closed", error=error.message)


def read_providers_file(path: Path | None) -> Providers:
    """Read the providers file; without one there are the built-in models. Raises ProvidersError."""
    if path is None:
        return default_providers()
    text = path.read_text(encoding="utf-8")
    return read_providers(text, name=str(path), folder=path.parent)


@asynccontextmanager
async def open_deployments(
    providers: Providers, pools: list[str], tell: Tell
) -> AsyncIterator[Deployments]:
    """Open the engines of these pools' providers, one for each, for the context's life.

    Raises EngineUnavailable if one can't be opened.
    """
    deployments = Deployments(pools)
    try:
        await deployments.replace(providers, tell)
        yield deployments
    finally:
        await deployments.close()


def slots_of(deployments: Deployments, pool: str) -> int | None:
    """How many runs the engines of a pool can take now; None: any number."""
    counts = [host.engine.slots() for host in deployments.providers() if host.provider.pool == pool]
    return None if None in counts else sum(count or 0 for count in counts)


def _to_deployment(placement: Placement, host: Host) -> Deployment:
    model = placement.model
    pool = placement.provider.pool
    has_tools = not model.capabilities or "tools" in model.capabilities
    return Deployment(
        placement.id, pool, model.name_upstream, host.engine, model.limits, host, has_tools
    )


def _identity(provider: AnyProvider) -> object:
    """What an engine is made from."""
    parts = provider.model_dump(exclude={"models", "health_check", "discover"})
    if not provider.in_process:  # an HTTP engine is told the model with each request
        return type(provider), parts
    models = [model.model_dump(exclude=_NOT_THE_ENGINES) for model in provider.models]
    return type(provider), parts, models


def _tell_of(tell: Tell, provider: str, word: str) -> None:
    tell(f"{provider}: {word}")
