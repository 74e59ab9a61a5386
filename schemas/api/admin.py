"""What an administrator sees of providers and their deployments. No key, no address."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from schemas import health
from schemas.catalogue import Catalogue, Deployment
from schemas.health import DeploymentState, Figures, Probe, WorkerFacts


class Breaker(Struct, frozen=True):
    """Whether a deployment is used; `until` in unix seconds, null if it is."""

    state: Literal["closed", "open", "half-open"]
    until: float | None
    reason: str | None


class DeploymentLimits(Struct, frozen=True):
    """What it takes at most; 0: no limit."""

    rpm: int
    in_flight: int


class FirstToken(Struct, frozen=True):
    """When streams began, in seconds; null if there was none."""

    p50: float | None
    p95: float | None


class LastError(Struct, frozen=True):
    """What it failed with last."""

    message: str
    at: float


class LastProbe(Struct, frozen=True):
    """What came of the last look at its provider."""

    at: float
    ok: bool
    seconds: float
    error: str | None


class ProviderDeployment(Struct, frozen=True):
    """One place that serves a model, with what was seen of it in the last five minutes."""

    id: str
    object: Literal["deployment"]
    model: str
    provider: str
    kind: str
    pool: str
    priority: int
    weight: int
    limits: DeploymentLimits
    capabilities: list[str]
    discovered: bool
    breaker: Breaker
    in_flight: int
    requests: int
    failures: int
    requests_per_minute: float
    first_token: FirstToken
    last_error: LastError | None
    last_probe: LastProbe | None
    workers: list[str]


class ProviderList(Struct, frozen=True):
    """All deployments, model by model."""

    object: Literal["list"]
    data: list[ProviderDeployment]


def to_provider_list(
    catalogue: Catalogue,
    states: Mapping[str, DeploymentState],
    workers: Sequence[WorkerFacts],
    now: float,
) -> ProviderList:
    """Put together what the catalogue, the breakers and the workers say."""
    probes: dict[str, Probe] = {}
    for probe in sorted((one for worker in workers for one in worker.probes), key=_when):
        probes[probe.provider] = probe
    figures: dict[str, list[Figures]] = {}
    for one in (one for worker in workers for one in worker.deployments):
        figures.setdefault(one.id, []).append(one)
    data = [
        _to_deployment(
            model.id,
            deployment,
            _Seen(
                _to_breaker(states.get(deployment.id) or DeploymentState(deployment.id), now),
                health.add_up(figures.get(deployment.id, ()), deployment.id),
                probes.get(deployment.provider),
                sorted(worker.name for worker in workers if worker.serves(deployment.pool)),
            ),
        )
        for model in catalogue.models
        for deployment in model.deployments
    ]
    return ProviderList("list", data)


class _Seen(NamedTuple):
    """What is known of a deployment beside the catalogue."""

    breaker: Breaker
    figures: Figures
    probe: Probe | None
    workers: list[str]


def _to_deployment(model: str, deployment: Deployment, seen: _Seen) -> ProviderDeployment:
    figures, probe = seen.figures, seen.probe
    first = figures.first_tokens
    return ProviderDeployment(
        id=deployment.id,
        object="deployment",
        model=model,
        provider=deployment.provider,
        kind=deployment.kind,
        pool=deployment.pool,
        priority=deployment.priority,
        weight=deployment.weight,
        limits=DeploymentLimits(deployment.rpm, deployment.in_flight),
        capabilities=deployment.capabilities,
        discovered=deployment.discovered,
        breaker=seen.breaker,
        in_flight=figures.in_flight,
        requests=figures.requests,
        failures=figures.failures,
        requests_per_minute=round(figures.requests * 60 / health.FIGURES_SECONDS, 2),
        first_token=FirstToken(health.quantile(first, 0.5), health.quantile(first, 0.95)),
        last_error=_to_last_error(figures),
        last_probe=_to_last_probe(probe) if probe else None,
        workers=seen.workers,
    )


def _to_last_error(figures: Figures) -> LastError | None:
    return LastError(figures.last_error, figures.last_error_at) if figures.last_error else None


def _to_last_probe(probe: Probe) -> LastProbe:
    return LastProbe(probe.at, not probe.error, probe.seconds, probe.error or None)


def _when(probe: Probe) -> float:
    return probe.at


def _to_breaker(state: DeploymentState, now: float) -> Breaker:
    if state.state == "closed":
        return Breaker("closed", None, None)
    # What is open for no longer waits for a run that tries it.
    name = state.state if state.is_down(now) else "half-open"
    return Breaker(name, state.until or None, state.reason or None)
