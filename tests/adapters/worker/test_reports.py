"""What a worker tells the router while it steps, and when it keeps quiet."""

from types import SimpleNamespace

import pytest

from amoeba_sglang.adapters.worker.reports import Reports
from amoeba_sglang.control.reports import LongRequestsHere, Progress, StepsMeasured, StepSums
from amoeba_sglang.control.transform.boundary import Boundary
from amoeba_sglang.control.worker.long_report import LongReport
from tests.adapters.model.allocators import LONG, SHORT, make

SUMS = {2: StepSums(3, [[1.0]])}


class Worker(Reports):
    def __init__(self, rank=1, sums=None, device=None):
        self.sent, self.long_report = [], LongReport()
        self.link = SimpleNamespace(send=self.sent.append)
        self.token_to_kv_pool_allocator = make()
        self.runtime = SimpleNamespace(
            rank=rank,
            meter=SimpleNamespace(take=lambda: sums),
            plane=SimpleNamespace(device_figures=lambda: device or {}),
        )


class Unseen:
    """Requests that nobody may walk over."""

    @property
    def all(self):
        raise AssertionError("a walk over all requests, without need")


def test_long_requests_are_told_when_they_change():
    worker, here = Worker(), SimpleNamespace(all=[SHORT, LONG])
    worker.report_long_requests(Unseen())
    worker.long_report.arrive(LONG.rid)
    worker.report_long_requests(here)
    worker.report_long_requests(here)
    assert worker.sent == [LongRequestsHere(rank=1, request_ids=[LONG.rid])]
    worker.report_long_requests(SimpleNamespace(all=[SHORT]))
    assert worker.sent[1] == LongRequestsHere(rank=1, request_ids=[])
    worker.report_long_requests(Unseen())


def test_the_cost_of_steps_is_told_when_there_is_something():
    quiet, worker = Worker(), Worker(sums=SUMS)
    quiet.report_steps()
    worker.report_steps()
    assert quiet.sent == [] and worker.sent == [StepsMeasured(rank=1, sums=SUMS)]
    worker = Worker(sums=SUMS, device={"maps": 9})
    worker.report_steps()
    [report] = worker.sent
    assert report.device == {"maps": 9}


@pytest.mark.parametrize(("rank", "says"), [(2, True), (3, False)])
def test_one_worker_of_a_block_tells_where_b_is(rank, says):
    worker = Worker(rank)
    under_way = SimpleNamespace(
        order=SimpleNamespace(ranks=[2, 3], epoch=9),
        boundary=Boundary.at_start(8, falls=True).after(range(6, 8)),
        report=SimpleNamespace(pace="two a step"),
    )
    worker.report_progress(under_way)
    expected = Progress(rank=2, epoch=9, boundary=6, pace="two a step")
    assert worker.sent == ([expected] if says else [])
