"""What /metrics says of an inference worker."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.registry import Collector

from workers.inference.engines import Engine, Measured
from workers.runtime.metrics import RunMetrics


class InferenceMetrics(RunMetrics):
    """The counters of one worker process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "inference")
        self.failures = Counter(
            "jan_inference_failures",
            "Attempts at a deployment that failed.",
            ["deployment"],
            registry=registry,
        )


class EngineMetrics(Collector):
    """The metrics that engines have themselves: of those that are there when somebody asks."""

    def __init__(self, engines: Callable[[], Iterable[Engine]]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        """Give each metric once, also where several engines have it or deployments share one."""
        given = set()
        for engine in self._engines():
            if isinstance(engine, Measured):
                for metric in engine.collect():
                    if metric.name not in given:
                        given.add(metric.name)
                        yield metric


@asynccontextmanager
async def open_engine_metrics(
    registry: CollectorRegistry, engines: Callable[[], Iterable[Engine]]
) -> AsyncIterator[None]:
    """Have the engines' own metrics in the registry for the context's life."""
    collector = EngineMetrics(engines)
    registry.register(collector)
    try:
        yield
    finally:
        registry.unregister(collector)
