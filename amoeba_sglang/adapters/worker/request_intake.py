"""What a worker notes about a request when it comes, and which one an abort means."""

from typing import Any

from sglang.srt.managers.io_struct import AbortReq
from sglang.srt.managers.scheduler import Scheduler

from amoeba_sglang.adapters.worker.stop_search import StopSearch


class RequestIntake(Scheduler):
    """What an ElasticScheduler does with single requests before upstream takes them."""

    def handle_generate_request(self, recv_req: Any, **kwargs: Any) -> None:
        wanted = len(recv_req.input_ids or ()) + (recv_req.sampling_params.max_new_tokens or 0)
        if wanted > self.token_to_kv_pool_allocator.request_tokens:
            self.long_report.arrive(recv_req.rid)
        super().handle_generate_request(recv_req, **kwargs)

    def _create_generation_req(self, *args: Any, **kwargs: Any) -> Any:
        req = super()._create_generation_req(*args, **kwargs)
        patterns = len(req.sampling_params.stop_regex_strs)
        if patterns:
            req.search_stop_regex = StopSearch(patterns)
        return req

    def abort_request(self, recv_req: AbortReq) -> None:
        """Upstream's, of one request: the front end names every part of a batch."""
        recv_req.exact = True
        super().abort_request(recv_req)
