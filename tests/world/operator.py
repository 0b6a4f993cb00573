"""Who asks for layouts and flushes, and what must be answered."""

from typing import Any

from sglang.srt.managers.io_struct import (
    FlushCacheReqInput,
    FlushCacheReqOutput,
    GetWeightsByNameReqInput,
    UpdateWeightFromDiskReqInput,
)

from amoeba_sglang.adapters.messages import AdminReply, AdminRequest
from amoeba_sglang.control.layout.partition import Layout, LayoutError
from amoeba_sglang.control.layout.slots import DegreeChain
from tests.world import events
from tests.world.violation import Violation

# The front end looks so often whether all requests have ended, in seconds.
_RETRY_S = 0.02


class Operator:
    """`asked`: by request, when it was asked, until it is answered. `weights_s`: seconds that a
    worker's weights take when they are updated or read."""

    def __init__(self, play: Any, chain: DegreeChain) -> None:
        self._play, self._chain = play, chain
        self._changes = 0
        self.asked: dict[str, float] = {}
        self._flushes: list[bool] | None = None
        self._weights: events.Weights | None = None
        self._touched: list[bool] | None = None
        self.weights_s = 0.0

    def change(self, event: events.Change) -> None:
        """Ask for one of the layouts that the present one allows."""
        allowed = self._allowed()
        if event.fits:
            open_now, hold = self._play.clients.open, self._play.workers[0].capacity.by_rank
            most = max((one.ask.prompt + one.output for one in open_now), default=0)
            allowed = [one for one in allowed if max(hold(one[2])) >= most]
        if not allowed:
            return
        ranks, degree, _ = allowed[event.pick % len(allowed)]
        self._changes += 1
        rid = f"t{self._changes}"
        body = {"ranks": list(ranks), "degree": degree, "operation_id": rid, "wait": True}
        self._play.note("ask", rid, body["ranks"], degree)
        self.asked[rid] = self._play.loop.now
        request = AdminRequest(rid=rid, kind="transform", body=body)
        self._play.route(self._play.router.handle_judged, request)

    def flush(self, event: events.Flush) -> None:
        """Ask for one, unless another is not answered yet: the front end asks for one at a time."""
        if self._flushes is None:
            self._flushes = []
            request = FlushCacheReqInput(timeout_s=event.seconds)
            self._play.route(self._play.router.handle_judged, request)

    def flushed(self, answer: FlushCacheReqOutput) -> None:
        """All workers flush, or none."""
        assert self._flushes is not None, answer
        self._flushes.append(answer.success)
        if len(self._flushes) == self._play.config.workers:
            if len(set(self._flushes)) > 1:
                raise Violation("some workers flush and others do not", str(self._flushes))
            self._play.counts["flushes" if answer.success else "flushes refused"] += 1
            self._flushes = None

    def touch_weights(self, event: events.Weights) -> None:
        """Ask for weights to be updated or read, unless this was asked and is not answered yet. The
        front end updates them only while no request is open, and lets others wait meanwhile."""
        if self._weights is None:
            self._weights, self.weights_s = event, event.seconds
            self._play.front_end.locked = event.what == "update"
            self._try_weights()

    def _try_weights(self) -> None:
        if self._play.front_end.locked and self._play.clients.any_open:
            self._play.loop.after(_RETRY_S, self._try_weights)
            return
        self._touched = []
        request = (
            UpdateWeightFromDiskReqInput(model_path="new")
            if self._play.front_end.locked
            else GetWeightsByNameReqInput(name="model.layers.0.mlp.down_proj.weight")
        )
        self._play.route(self._play.router.handle_judged, request)

    def touched(self, answer: Any) -> None:
        """All workers answer alike: it is done, or refused."""
        assert self._touched is not None and self._weights is not None, answer
        done = answer.success if hasattr(answer, "success") else answer.parameter is not None
        self._touched.append(done)
        if len(self._touched) < self._play.config.workers:
            return
        if len(set(self._touched)) > 1:
            raise Violation("some workers touch weights and others do not", str(self._touched))
        past = {"update": "updated", "read": "read"}[self._weights.what]
        self._play.rare.count(f"weights {past if done else 'refused'}")
        self._touched = None
        # The router may do nothing in the middle of what a worker does.
        self._play.loop.after(0.0, self._let_go)

    def _let_go(self) -> None:
        self._weights = None
        self._play.front_end.unlock()

    @property
    def touches(self) -> bool:
        """Whether some worker has yet to update or read its weights."""
        return self._touched is not None and len(self._touched) < self._play.config.workers

    @property
    def waits(self) -> str:
        """What else than an order was asked for and is not answered yet; empty: nothing."""
        flush = "a flush" if self._flushes is not None else ""
        return flush or ("weights" if self._weights is not None else "")

    def answer(self, reply: AdminReply) -> None:
        """Once to each question."""
        assert reply.rid is not None
        if self.asked.pop(reply.rid, None) is None:
            raise Violation("answered twice, or never asked", f"{reply.rid}: {reply.body}")
        self._play.counts[f"orders answered {reply.status}"] += 1
        error = reply.body.get("error", "")
        self._play.note("answer", reply.rid, reply.status, error)

    def _allowed(self) -> list[tuple[tuple[int, ...], int, Layout]]:
        """(ranks, degree, what comes of it) of all changes of the present layout."""
        layout, found = self._play.router.operations.layout, []
        for degree in self._chain.degrees:
            for width in self._chain.degrees[1:]:
                if width < degree:
                    continue
                for first in range(0, layout.workers, width):
                    ranks = tuple(range(first, first + width))
                    try:
                        target = layout.change(self._chain, ranks, degree)
                    except LayoutError:
                        continue
                    if target != layout:
                        found.append((ranks, degree, target))
        return found
