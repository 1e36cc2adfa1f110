"""The service's metrics, in Prometheus' format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one service."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "peml_requests", "Requests by route and status.", ("route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "peml_request_seconds", "Time until an answer.", ("route",), registry=registry
        )
        self._rows = Counter("peml_rows", "Rows by task.", ("task",), registry=registry)
        self._batch_rows = Histogram(
            "peml_batch_rows", "Rows of a batch.", ("lane",), buckets=_SIZES, registry=registry
        )
        self._batch_seconds = Histogram(
            "peml_batch_seconds", "Time the model spends on a batch.", ("lane",), registry=registry
        )
        self._tokens = Counter(
            "peml_tokens", "Tokens of all batches.", ("lane",), registry=registry
        )
        gauge = Gauge("peml_waiting_rows", "Rows that wait for the model.", registry=registry)
        gauge.set_function(lambda: float(waiting()))

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts an answered request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def row(self, task: str) -> None:
        """Counts a row of a task of the model."""
        self._rows.labels(task).inc()

    def batch(self, lane: str, rows: int, tokens: int, seconds: float) -> None:
        """Counts a batch of the model thread."""
        self._batch_rows.labels(lane).observe(rows)
        self._batch_seconds.labels(lane).observe(seconds)
        self._tokens.labels(lane).inc(tokens)

    def text(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        return generate_latest(self._registry)
