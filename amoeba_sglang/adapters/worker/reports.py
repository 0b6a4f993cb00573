"""What a worker tells the router while it steps."""

from sglang.srt.managers.scheduler import Scheduler

from amoeba_sglang.adapters.worker.requests import Requests
from amoeba_sglang.control.reports import Progress, StepsMeasured
from amoeba_sglang.planes.transformation import Transformation


class Reports(Scheduler):
    """The reports of an ElasticScheduler, but for those that end something: votes and results."""

    def report_long_requests(self, requests: Requests) -> None:
        """Tell the router whenever others than before wait or live here."""
        if not self.long_report.due:
            return
        is_long = self.token_to_kv_pool_allocator.is_long
        found = (req.rid for req in requests.all if is_long(req))
        report = self.long_report.next(self.runtime.rank, found)
        if report is not None:
            self.link.send(report)

    def report_steps(self) -> None:
        """Tell the router now and then what steps cost here."""
        sums = self.runtime.meter.take()
        if sums is not None:
            figures = dict(self.runtime.plane.device_figures())
            self.link.send(StepsMeasured(rank=self.runtime.rank, sums=sums, device=figures))

    def report_progress(self, under_way: Transformation) -> None:
        """Tell the router where b is; one worker of the block is enough."""
        order = under_way.order
        if self.runtime.rank == order.ranks[0]:
            progress = Progress(
                rank=self.runtime.rank,
                epoch=order.epoch,
                boundary=under_way.boundary.b,
                pace=under_way.report.pace,
            )
            self.link.send(progress)
