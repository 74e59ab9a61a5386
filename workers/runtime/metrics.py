"""What /metrics says of a worker that carries runs out."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class RunMetrics:
    """The counters of one worker process, of this kind."""

    def __init__(self, registry: CollectorRegistry, kind: str) -> None:
        self.runs = Counter(
            f"jan_{kind}_runs", "Runs that ended here.", ["status"], registry=registry
        )
        self.seconds = Histogram(
            f"jan_{kind}_run_seconds",
            "From a job's delivery to its ack.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.frames = Counter(f"jan_{kind}_frames", "Frames of runs ended.", registry=registry)
        self.handovers = Counter(
            f"jan_{kind}_handovers",
            "Runs taken over, lost or handed back.",
            ["how"],
            registry=registry,
        )
        self.running = Gauge(f"jan_{kind}_running", "Runs in progress.", registry=registry)
        self.slots = Gauge(f"jan_{kind}_slots", "Runs at the same time.", registry=registry)
