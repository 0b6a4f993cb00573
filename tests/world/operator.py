"""Who asks for layouts and flushes, and what must be answered."""

from __future__ import annotations

from typing import Any

from sglang.srt.managers.io_struct import FlushCacheReqInput, FlushCacheReqOutput

from amoeba_sglang.adapters.messages import AdminReply, AdminRequest
from amoeba_sglang.control.layout.partition import LayoutError
from amoeba_sglang.control.layout.slots import DegreeChain
from tests.world import events
from tests.world.violation import Violation


class Operator:
    """`asked`: by request, when it was asked, until it is answered."""

    def __init__(self, play: Any, chain: DegreeChain) -> None:
        self._play, self._chain = play, chain
        self._changes = 0
        self.asked: dict[str, float] = {}
        self._flushes: list[bool] | None = None

    def change(self, event: events.Change) -> None:
        """Ask for one of the layouts that the present one allows."""
        allowed = self._allowed()
        if not allowed:
            return
        ranks, degree = allowed[event.pick % len(allowed)]
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

    def answer(self, reply: AdminReply) -> None:
        """Once to each question."""
        assert reply.rid is not None
        if self.asked.pop(reply.rid, None) is None:
            raise Violation("answered twice, or never asked", f"{reply.rid}: {reply.body}")
        self._play.counts[f"orders answered {reply.status}"] += 1
        error = reply.body.get("error", "")
        self._play.note("answer", reply.rid, reply.status, error)

    def _allowed(self) -> list[tuple[tuple[int, ...], int]]:
        """(ranks, degree) of all changes of the present layout."""
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
                        found.append((ranks, degree))
        return found
