"""What /metrics says of an inference worker."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.registry import Collector

from workers.inference.engines import Engine, Measured

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class InferenceMetrics:
    """The counters of one worker process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.runs = Counter(
            "jan_inference_runs", "Runs that ended here.", ["status"], registry=registry
        )
        self.seconds = Histogram(
            "jan_inference_run_seconds",
            "From a job's delivery to its ack.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.frames = Counter("jan_inference_frames", "Frames of runs ended.", registry=registry)
        self.failures = Counter(
            "jan_inference_failures",
            "Attempts at a deployment that failed.",
            ["deployment"],
            registry=registry,
        )
        self.handovers = Counter(
            "jan_inference_handovers",
            "Runs taken over, lost or handed back.",
            ["how"],
            registry=registry,
        )
        self.running = Gauge("jan_inference_running", "Runs in progress.", registry=registry)
        self.slots = Gauge("jan_inference_slots", "Runs at the same time.", registry=registry)


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
