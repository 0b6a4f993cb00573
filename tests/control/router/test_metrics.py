"""What Prometheus is told of transformations and of the layout."""

import prometheus_client
import pytest

from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.reports import TransformReport
from amoeba_sglang.control.router.events import LoadsRead
from amoeba_sglang.control.router.loads import Snapshot
from amoeba_sglang.control.router.metrics import NoMetrics, RouterMetrics
from amoeba_sglang.control.router.record import Record
from tests.control.router.values import CAPACITY, Case

REPORT = TransformReport(seconds=0.3, longest_step_seconds=0.07, kv_bytes=100, weight_bytes=20)


def record(outcome="done", report=REPORT, **fields):
    return Record("op", "why", "merge", outcome, (0, 1), 2, ((0, 1), (2,), (3,)), 0.4, **fields,
                  report=report)  # fmt: skip


@pytest.fixture
def registry(monkeypatch):
    """Of this test alone: a name may be registered once."""
    made = prometheus_client.CollectorRegistry()
    for kind in ("Counter", "Gauge", "Histogram"):
        original = getattr(prometheus_client, kind)
        monkeypatch.setattr(
            prometheus_client,
            kind,
            lambda *args, _made=original, **options: _made(*args, registry=made, **options),
        )
    return made


def test_a_transformation_is_counted_with_its_times_and_bytes(registry):
    metrics, value = RouterMetrics(CAPACITY), registry.get_sample_value
    metrics.count(record())
    metrics.count(record())
    metrics.count(record(outcome="refused", report=None, error="full"))

    def transformations(outcome):
        labels = {"kind": "merge", "outcome": outcome}
        return value("amoeba_transformations_total", labels)

    assert (transformations("done"), transformations("refused")) == (2, 1)
    assert value("amoeba_transformation_seconds_count") == 2
    assert value("amoeba_transformation_seconds_sum") == pytest.approx(0.8)
    assert value("amoeba_step_stall_seconds_sum") == pytest.approx(0.14)
    assert value("amoeba_bytes_moved_total", {"what": "kv"}) == 200
    assert value("amoeba_bytes_moved_total", {"what": "weights"}) == 40


def test_every_rank_shows_its_degree_and_its_share(registry):
    RouterMetrics(CAPACITY).show_layout((2, 2, 1, 1))
    for rank, (degree, tokens) in enumerate([(2, 130), (2, 130), (1, 100), (1, 100)]):
        labels = {"rank": str(rank)}
        assert registry.get_sample_value("amoeba_instance_degree", labels) == degree
        assert registry.get_sample_value("amoeba_kv_capacity_tokens", labels) == tokens


def test_long_requests_and_leases_are_shown_once_a_second(registry):
    metrics, value = RouterMetrics(CAPACITY), registry.get_sample_value
    case = Case(POLICIES["amoeba"], layout=(2, 2, 1, 1))
    case.tell(LoadsRead([Snapshot(0, 0.0, held_tokens=190), Snapshot(1, 0.0, held_tokens=70)]))
    metrics.show_load(case.desk.books, 10.0)
    leased = [value("amoeba_leased_tokens", {"rank": str(rank)}) for rank in range(4)]
    assert leased == [30, 0, 0, 0] and value("amoeba_long_wait_seconds") == 0
    case.now = 10.0
    # Longer than what two workers hold.
    case.arrive(rid="long", prompt=300, output=30)
    metrics.show_load(case.desk.books, 10.5)
    assert value("amoeba_long_requests", {"state": "waiting"}) == 0
    metrics.show_load(case.desk.books, 14.0)
    assert value("amoeba_long_requests", {"state": "waiting"}) == 1
    assert value("amoeba_long_wait_seconds") == 4.0
    assert value("amoeba_long_requests", {"state": "running"}) == 0


def test_without_metrics_nothing_is_registered(registry):
    metrics = NoMetrics()
    metrics.count(record())
    metrics.show_layout((1, 1))
    metrics.show_load(Case().desk.books, 0.0)
    assert list(registry.collect()) == []


def test_a_person_sees_a_record_with_what_it_has():
    shown = record(prepare_seconds=0.1).to_json()
    assert (shown["outcome"], shown["ranks"], shown["prepare_seconds"]) == ("done", [0, 1], 0.1)
    assert shown["bytes_moved"] == {"kv": 100, "weights": 20}
    assert shown["seconds"] == 0.4 and "error" not in shown
    refused = record("refused", None, error="full").to_json()
    assert refused["error"] == "full" and "prepare_seconds" not in refused
