"""What /metrics says of a tools worker."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 45, 60, 120)


class ToolsMetrics:
    """The counters of one worker process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter(
            "jan_tools_calls", "Calls that ended here.", ["tool", "status"], registry=registry
        )
        self.seconds = Histogram(
            "jan_tools_call_seconds",
            "From a call's delivery to its ack.",
            ["tool"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.retries = Counter(
            "jan_tools_retries", "Tries after the first.", ["tool"], registry=registry
        )
        self.handovers = Counter(
            "jan_tools_handovers",
            "Calls taken over, lost or handed back.",
            ["how"],
            registry=registry,
        )
        self.running = Gauge("jan_tools_running", "Calls in progress.", registry=registry)


class BreakerMetrics(Collector):
    """Which backends are left alone now."""

    def __init__(self, states: Callable[[], dict[str, bool]]) -> None:
        self._states = states

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give the one metric."""
        family = GaugeMetricFamily(
            "jan_tools_breaker_open",
            "Whether a backend that failed lately is left alone.",
            labels=["backend"],
        )
        for backend, is_open in self._states().items():
            family.add_metric([backend], float(is_open))
        yield family
