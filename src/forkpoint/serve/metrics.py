"""The counters of a server, for Prometheus.

Invariant: every label has few values, all of which are known in advance; nothing that clients send becomes a
label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "forkpoint_requests", "Requests answered.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "forkpoint_request_seconds",
            "From the head of a request to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batch = Histogram(
            "forkpoint_batch_solutions", "Solutions scored together.", buckets=SIZES, registry=self._registry
        )
        self._queue = Gauge("forkpoint_queue_solutions", "Solutions waiting.", registry=self._registry)
        self._queue_bytes = Gauge(
            "forkpoint_queue_bytes", "Memory of the texts that are waiting.", registry=self._registry
        )
        self._solutions = Counter("forkpoint_scored_solutions", "Solutions scored.", registry=self._registry)
        self._steps = Counter("forkpoint_scored_steps", "Steps scored.", registry=self._registry)
        self._tokens = Counter(
            "forkpoint_scored_tokens",
            "Tokens of the solutions scored; a shared prefix counts once per solution.",
            registry=self._registry,
        )

    def watch_queue(self, size: Callable[[], int], num_bytes: Callable[[], int]) -> None:
        """Read the number of waiting solutions and the memory of their texts from these functions."""
        self._queue.set_function(size)
        self._queue_bytes.set_function(num_bytes)

    def count_batch(self, num_steps: Sequence[int], num_tokens: Sequence[int]) -> None:
        """Count solutions that were scored together; both have one entry per solution."""
        self._batch.observe(len(num_steps))
        self._solutions.inc(len(num_steps))
        self._steps.inc(sum(num_steps))
        self._tokens.inc(sum(num_tokens))

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def exposition(self) -> bytes:
        """All counters, in the text format of Prometheus."""
        return generate_latest(self._registry)
