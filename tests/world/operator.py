"""Who asks for layouts and flushes, and what must be answered."""

from __future__ import annotations

from typing import Any

from amoeba_sglang.layout.partition import LayoutError
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.messages import AdminReply, AdminRequest
from tests.world import events
from tests.world.checks import Violation


class Operator:
    """`asked`: by request, when it was asked, until it is answered."""

    def __init__(self, play: Any, chain: DegreeChain) -> None:
        self._play, self._chain = play, chain
        self._changes = 0
        self.asked: dict[str, float] = {}

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
        self._play.route(self._play.router.handle_admin, request)

    def flush(self, event: events.Flush) -> None:
        """Nothing yet: the router waits for answers in the middle of it."""

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
