"""What an edge measures. Labels are bounded: routes, methods, classes of status, served models."""

from collections.abc import Callable, Container
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
_OTHER: Final = "other"
_WRONG_METHOD: Final = 405


class Metrics:
    """The edge's own registry. `models` tells which model names may be labels."""

    def __init__(self, models: Container[str]) -> None:
        self._models = models
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._requests = Histogram(
            "jan_edge_request_seconds",
            "From the request's head to the answer's end",
            ("route", "method", "status"),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._first = Histogram(
            "jan_edge_first_byte_seconds",
            "From the request's head to the answer's: of a stream, its first token",
            ("route",),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._tokens = Counter(
            "jan_edge_tokens_total",
            "Tokens in answers that passed here",
            ("model", "kind"),
            registry=self.registry,
        )
        self._observe: dict[tuple[str, str, int], Callable[[float], None]] = {}
        self._observe_first: dict[str, Callable[[float], None]] = {}
        self.in_flight = 0
        self.watch("jan_edge_in_flight", "Requests being answered", lambda: self.in_flight)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when the metrics are."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def request(self, route: str, method: str, status: int, first: float, whole: float) -> None:
        """Count a request that has ended; times in seconds."""
        # Children are kept here: looking one up by its labels costs more than observing.
        key = (route, method if status != _WRONG_METHOD else _OTHER, status // 100)
        observe = self._observe.get(key)
        if observe is None:
            labels = (*key[:2], f"{status // 100}xx")
            observe = self._observe[key] = self._requests.labels(*labels).observe
        observe(whole)
        observe_first = self._observe_first.get(route)
        if observe_first is None:
            observe_first = self._observe_first[route] = self._first.labels(route).observe
        observe_first(first)

    def tokens(self, model: str, prompt: int, completion: int) -> None:
        """Count what a run used."""
        name = model if model in self._models else _OTHER
        self._tokens.labels(name, "prompt").inc(prompt)
        self._tokens.labels(name, "completion").inc(completion)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
