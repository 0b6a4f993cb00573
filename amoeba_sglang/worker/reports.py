"""What a worker tells the router while it steps."""

from __future__ import annotations

from sglang.srt.managers.scheduler import Scheduler

from amoeba_sglang.worker.requests import Requests
from amoeba_sglang.worker.transformation import Transformation


class Reports(Scheduler):
    """The reports of an ElasticScheduler, but for those that end something: votes and results."""

    def report_long_requests(self, requests: Requests) -> None:
        """Tell the router whenever others than before wait or live here."""
        if not self.long_report.due:
            return
        is_long = self.token_to_kv_pool_allocator.is_long
        body = self.long_report.next(req.rid for req in requests.all if is_long(req))
        if body is not None:
            self.link.report("long requests", "", 0, body)

    def report_steps(self) -> None:
        """Tell the router now and then what steps cost here."""
        sums = self.runtime.meter.take()
        if sums is not None:
            self.link.report("steps", "", 0, {"sums": sums, **self.emulation_times()})

    def emulation_times(self) -> dict[str, float]:
        """Of an emulated device; nothing on a real one."""
        return {}

    def report_progress(self, under_way: Transformation) -> None:
        """Tell the router where b is; one worker of the block is enough."""
        order = under_way.order
        if self.runtime.rank == order.ranks[0]:
            body = {"boundary": under_way.boundary.b, "pace": under_way.report.pace}
            self.link.report("progress", order.operation_id, order.epoch, body)
