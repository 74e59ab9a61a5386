"""Engines' own metrics are in the worker's /metrics, as long as the engine is there."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily

from schemas.providers import default_providers
from workers.inference.engines import Engine
from workers.inference.engines.simulated import SimulatedEngine
from workers.inference.metrics import InferenceMetrics, open_engine_metrics


class Counting(SimulatedEngine):
    """An engine with a metric of its own."""

    def collect(self) -> Iterable[Metric]:
        """One gauge."""
        return [GaugeMetricFamily("fake:queue_depth", "How deep.", value=3)]


def _engine(kind: type[SimulatedEngine] = Counting) -> Engine:
    return kind(next(one for one in default_providers().providers if one.kind == "simulated"))


async def test_what_an_engine_measures_is_beside_what_the_worker_measures() -> None:
    registry = CollectorRegistry()
    InferenceMetrics(registry)
    async with open_engine_metrics(registry, lambda: [_engine()]):
        told = generate_latest(registry).decode()
    assert "fake:queue_depth 3.0" in told
    assert "jan_inference_running 0.0" in told


async def test_an_engine_that_measures_nothing_adds_nothing() -> None:
    registry = CollectorRegistry()
    async with open_engine_metrics(registry, lambda: [_engine(SimulatedEngine)]):
        assert generate_latest(registry) == b""


async def test_a_metric_of_several_engines_is_told_once() -> None:
    registry = CollectorRegistry()
    async with open_engine_metrics(registry, lambda: [_engine(), _engine()]):
        assert generate_latest(registry).decode().count("fake:queue_depth 3.0") == 1


async def test_engines_that_come_and_go_are_followed() -> None:
    registry, engines = CollectorRegistry(), [_engine()]
    async with open_engine_metrics(registry, lambda: engines):
        assert b"queue_depth" in generate_latest(registry)
        engines.clear()
        assert generate_latest(registry) == b""
        engines.append(_engine())
        assert b"queue_depth" in generate_latest(registry)
    assert generate_latest(registry) == b""


async def test_they_can_be_opened_again_in_the_same_registry() -> None:
    registry = CollectorRegistry()
    for _ in range(2):
        async with open_engine_metrics(registry, lambda: [_engine()]):
            assert generate_latest(registry).decode().count("fake:queue_depth 3.0") == 1
