"""Prometheus metrics of transformations, made in the router process under --enable-metrics."""

from collections.abc import Sequence
from typing import Any

from amoeba_sglang.control.router.books import Books
from amoeba_sglang.control.router.limits import Capacity
from amoeba_sglang.control.router.record import Record
from amoeba_sglang.control.router.view import leased_tokens

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SHOW_SECONDS = 1.0


class NoMetrics:
    """Without --enable-metrics nothing is counted."""

    def count(self, record: Record) -> None:
        pass

    def show_layout(self, degrees: Sequence[int]) -> None:
        pass

    def show_load(self, books: Books, now: float) -> None:
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
        self._leased = Gauge(
            "amoeba_leased_tokens",
            "Tokens of its peers' own slots that the first rank of an instance has.",
            **by_rank,
        )
        alone: dict[str, Any] = {"multiprocess_mode": "livemostrecent"}
        self._long = Gauge(
            "amoeba_long_requests",
            "Long requests that wait in the router, or have a worker.",
            labelnames=["state"],
            **alone,
        )
        self._oldest = Gauge(
            "amoeba_long_wait_seconds",
            "How long the oldest of the long requests that wait has done so.",
            **alone,
        )
        self._shown = float("-inf")

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

    def show_load(self, books: Books, now: float) -> None:
        """Show long requests and leases, of which nobody asks more often than once a second."""
        if now - self._shown < _SHOW_SECONDS:
            return
        self._shown = now
        waiting = [one.long.since for queue in (books.queue, books.held) for one in queue]
        self._long.labels("waiting").set(len(waiting))
        self._long.labels("running").set(sum(books.longs.counts))
        self._oldest.set(now - min(waiting, default=now))
        for ranks in books.operations.layout.instances:
            leased = leased_tokens(self._capacity, ranks, books.loads.snapshots[ranks[0]])
            for rank in ranks:
                self._leased.labels(rank).set(leased if rank == ranks[0] else 0)
