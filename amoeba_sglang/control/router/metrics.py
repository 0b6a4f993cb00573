"""Prometheus metrics of transformations, made in the router process under --enable-metrics."""

from collections.abc import Sequence
from typing import Any

from amoeba_sglang.control.router.limits import Capacity
from amoeba_sglang.control.router.record import Record

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class NoMetrics:
    """Without --enable-metrics nothing is counted."""

    def count(self, record: Record) -> None:
        pass

    def show_layout(self, degrees: Sequence[int]) -> None:
        pass


class RouterMetrics(NoMetrics):
    """`capacity`: what workers and instances hold."""

    def __init__(self, capacity: Capacity) -> None:
        # Lazy: prometheus_client reads its multiprocess directory when it is imported.
        from prometheus_client import Counter, Gauge, Histogram

        self._capacity = capacity
        self._transformations = Counter(
            "amoeba_transformations_total", "Transformations that ended.", ["kind", "outcome"]
        )
        self._seconds = Histogram(
            "amoeba_transformation_seconds",
            "Time from the order to the last worker's report.",
            buckets=_SECONDS,
        )
        self._stall = Histogram(
            "amoeba_step_stall_seconds",
            "Longest time within a transformation in which a worker made no token.",
            buckets=_SECONDS,
        )
        self._bytes = Counter("amoeba_bytes_moved_total", "Bytes that workers received.", ["what"])
        by_rank: dict[str, Any] = {"labelnames": ["rank"], "multiprocess_mode": "livemostrecent"}
        self._degree = Gauge(
            "amoeba_instance_degree",
            "Degree of the instance that a rank belongs to.",
            **by_rank,
        )
        self._kv_capacity = Gauge(
            "amoeba_kv_capacity_tokens",
            "Tokens of its instance that a rank's KV pool holds.",
            **by_rank,
        )

    def count(self, record: Record) -> None:
        """Count one ended operation."""
        self._transformations.labels(record.kind, record.outcome).inc()
        report = record.report
        if report is not None:
            self._seconds.observe(record.seconds)
            self._stall.observe(report.longest_step_seconds)
            self._bytes.labels("kv").inc(report.kv_bytes)
            self._bytes.labels("weights").inc(report.weight_bytes)

    def show_layout(self, degrees: Sequence[int]) -> None:
        """Show the degree of every rank, and its share of what its instance holds."""
        for rank, degree in enumerate(degrees):
            self._degree.labels(rank).set(degree)
            self._kv_capacity.labels(rank).set(self._capacity.instance_tokens(degree) // degree)
