"""What /metrics says of an inference worker."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
