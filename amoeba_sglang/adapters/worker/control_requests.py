"""Control requests of upstream's that know nothing of instances, and those that the router adds."""

import logging
from functools import partial
from typing import Any

from sglang.srt.managers import io_struct
from sglang.srt.managers.scheduler import Scheduler
from sglang.utils import TypeBasedDispatcher

from amoeba_sglang.adapters.messages import IdleQuestion
from amoeba_sglang.adapters.worker.pool_stats import capacity_tokens
from amoeba_sglang.adapters.worker.weight_names import restored
from amoeba_sglang.control.reports import IdleAnswer

logger = logging.getLogger(__name__)

_BY_NAME = (io_struct.GetWeightsByNameReqInput, io_struct.UpdateWeightFromDiskReqInput)


class ControlRequests(Scheduler):
    """What an ElasticScheduler answers to requests that concern no single prompt."""

    def init_request_dispatcher(self) -> None:
        super().init_request_dispatcher()
        upstream = self._request_dispatcher
        self._request_dispatcher = TypeBasedDispatcher(
            [
                (IdleQuestion, self.answer_idle),
                (io_struct.ProfileReq, self.profile),
                *((kind, partial(self.access_weights, upstream)) for kind in _BY_NAME),
            ]
        )
        self._request_dispatcher += upstream

    def access_weights(self, upstream: TypeBasedDispatcher, request: Any) -> Any:
        """Upstream reads and loads by name in upstream's row order; the router allows it at degree
        1."""
        self.runtime.executor.synchronize()
        with restored(self.runtime.executor.layers, getattr(request, "name", None)):
            return upstream(request)

    def get_internal_state(self, recv_req: io_struct.GetInternalStateReq) -> Any:
        output = super().get_internal_state(recv_req)
        tokens = capacity_tokens(self.token_to_kv_pool_allocator)
        output.internal_state["memory_usage"]["token_capacity"] = tokens
        return output

    def answer_idle(self, question: IdleQuestion) -> None:
        idle = self.is_fully_idle(ignore_waiting=self._engine_paused)
        self.link.send(IdleAnswer(rank=self.runtime.rank, number=question.number, idle=idle))

    def profile(self, request: io_struct.ProfileReq) -> io_struct.ProfileReqOutput:
        """Upstream's; what the profiler cannot do must not end the worker."""
        try:
            return self.profiler_manager._profile(request)
        except Exception as error:
            logger.exception("profiling failed")
            return io_struct.ProfileReqOutput(success=False, message=str(error))
