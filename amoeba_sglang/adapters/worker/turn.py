"""Carries out on a scheduler what the worker's protocol says."""

from typing import Any

from amoeba_sglang.adapters.messages import TransformOrder
from amoeba_sglang.adapters.worker.requests import Requests
from amoeba_sglang.control.reports import Done, Vote
from amoeba_sglang.control.worker import protocol
from amoeba_sglang.planes.transformation import Transformation


class Turn:
    """One order, or one planned step, of an ElasticScheduler.

    `batch`, `running_batch`: what is planned and not installed yet, or None.
    """

    def __init__(self, scheduler: Any, batch: Any = None, running_batch: Any = None) -> None:
        self._scheduler, self._runtime = scheduler, scheduler.runtime
        self._batch, self._planned = batch, (batch, running_batch)
        self.requests = Requests(scheduler, self._planned)

    def carry_out(self, steps: protocol.Steps) -> None:
        """Do one effect after the other, and tell the protocol what came of it."""
        result = None
        while True:
            try:
                effect = steps.send(result)
            except StopIteration:
                return
            result = self._do(effect)

    def _do(self, effect: protocol.Effect) -> Any:
        runtime = self._runtime
        match effect:
            case protocol.Consider(order):
                return self._consider(order)
            case protocol.AskVerdict():
                return runtime.verdict
            case protocol.Vote(order, reason):
                vote = Vote(rank=runtime.rank, epoch=order.epoch, accept=not reason, reason=reason)
                self._scheduler.link.send(vote)
            case protocol.StandDown():
                runtime.stand_down()
            case protocol.Approach(ranks):
                runtime.approach(ranks)
            case protocol.MayMeet(ranks):
                return not runtime.step_clock.should_defer(ranks)
            case protocol.Enter(order, since):
                self._enter(order, since)
            case protocol.Advance():
                return self._advance()
            case protocol.Limits(degrees):
                self._scheduler.follow_capacity(degrees)
            case protocol.Join(epoch, ranks):
                runtime.join(epoch, ranks)
            case protocol.HasNews():
                return runtime.has_news(self.requests)
            case protocol.Listen(tag):
                return runtime.bell.rung(tag)
            case protocol.Ring(ranks, tag):
                runtime.bell.ring(ranks, tag)
            case protocol.Exchange():
                return runtime.exchange(effect, self._batch, self.requests)
            case protocol.Run(records):
                self._scheduler.report_steps()
                self._scheduler.show_capacity()
                runtime.run_or_follow(self._batch, records)
        return None

    def _consider(self, order: TransformOrder) -> str | None:
        refusal = self.refusal(order)
        if refusal is not None:
            return refusal
        self._runtime.prepare(order, self.requests)
        return self._runtime.verdict

    def refusal(self, order: TransformOrder) -> str | None:
        """Why this worker cannot take part, or None."""
        scheduler, rank = self._scheduler, self._runtime.rank
        place = order.ranks.index(rank)
        degree = order.after[place]
        if order.before[place] != degree:
            most = scheduler.capacity.request_tokens(degree, anchor=rank % degree == 0)
            for req in self.requests.all:
                wanted = scheduler.token_to_kv_pool_allocator.tokens_wanted(req)
                if wanted > most and not self.requests.is_ending(req):
                    return (
                        f"request {req.rid} needs up to {wanted} tokens of KV memory, but here one "
                        f"request can have {most} at degree {degree}; wait for its end, or abort it"
                    )
        return self._runtime.refusal(order)

    def _enter(self, order: TransformOrder, since: float) -> None:
        self._runtime.executor.synchronize()
        self._runtime.enter(order, since)

    def _advance(self) -> int | None:
        runtime = self._runtime
        under_way = runtime.transformation
        runtime.executor.synchronize()
        return self._report(under_way, runtime.advance())

    def _report(self, under_way: Transformation, ended: bool) -> int | None:
        """Tell the router how far the transformation is; the degree if it has ended."""
        scheduler, runtime = self._scheduler, self._runtime
        if not ended:
            scheduler.report_progress(under_way)
            return None
        done = Done(rank=runtime.rank, epoch=under_way.order.epoch, report=under_way.report)
        scheduler.link.send(done)
        return runtime.degree
