"""Instances merge for requests that no single worker can hold, and split when these are gone.

After Algorithm 1 of arXiv 2509.19729: an instance that serves long requests is left to them, the
smallest degree that holds a request is made, and only if no instance has room. Beyond the paper:
few workers at a time are lent to long requests, more when several of these wait, since a long
request that queues behind another costs less than the short ones that a second merge slows down.
"""

from __future__ import annotations

from dataclasses import replace

from amoeba_sglang.policy.base import (
    Change,
    Decision,
    Hold,
    LongRequest,
    RequestSize,
    Scene,
    View,
)
from amoeba_sglang.policy.least_load import place_on_least_loaded

# A merged instance waits this long for its next long request before it splits.
LINGER_S = 2.0
# Shares of all workers that may be lent to long requests: while one of these waits, and more.
USUAL_SHARE, BACKLOG_SHARE = 0.5, 0.75
# From then on a long request gets its merge although that lends more.
PATIENCE_S = 30.0


def place_beside_long_requests(request: RequestSize, view: View) -> Decision:
    """The least loaded worker of the instances that serve no long requests, if there are any."""
    others = tuple(rank for rank in view.able if rank not in view.reserved)
    return place_on_least_loaded(request, replace(view, able=others or view.able))


class LongRequestRules:
    """The layout rules of the policy `amoeba`."""

    def admit(self, request: LongRequest, scene: Scene, able: tuple[int, ...]) -> Decision | Hold:
        """An instance without a long request; else a merge if one may come; else behind others."""
        kept = self._kept_for_elder(request, scene)
        open_ranks = [rank for rank in able if rank not in kept]
        free = [rank for rank in open_ranks if not scene.longs_of(scene.layout.instance_of(rank))]
        degrees = scene.layout.degrees
        if free:
            rank = min(free, key=lambda rank: (degrees[rank], _load(scene, rank), rank))
            return Decision(rank, f"degree {degrees[rank]} holds {request.tokens} tokens")
        change = self._merge(request, scene)
        if change is not None:
            return Hold(f"waits for ranks {list(change.ranks)} to merge")
        if open_ranks:
            rank = min(open_ranks, key=lambda rank: (scene.longs[rank], _load(scene, rank), rank))
            return Decision(rank, f"behind {scene.longs[rank]} long requests, no merge is allowed")
        return Hold(self._obstacle(request, scene))

    def change(self, scene: Scene) -> Change | None:
        """A merge for the eldest that no free instance can hold, else a split of what is free."""
        free = max((len(r) for r in scene.layout.instances if not scene.longs_of(r)), default=0)
        for request in scene.waiting:
            if request.degree > free and (change := self._merge(request, scene)):
                return change
        for ranks in scene.layout.instances:
            if change := self._split(ranks, scene):
                return change
        return None

    def _merge(self, request: LongRequest, scene: Scene) -> Change | None:
        """The cheapest block that may merge for `request` now: the least KV changes worker."""
        degree, layout = request.degree, scene.layout
        lent = {rank for rank, d in enumerate(layout.degrees) if d > scene.base}
        kept = self._kept_for_elder(request, scene)
        patient = scene.now - request.since < PATIENCE_S
        share = (USUAL_SHARE if scene.backlog <= 1 else BACKLOG_SHARE) if patient else 1.0
        allowed = max(degree, int(share * layout.workers))
        candidates = [
            ranks
            for ranks in scene.blocks(degree)
            if not scene.longs_of(ranks)
            and max(layout.degrees[rank] for rank in ranks) < degree
            and not (scene.pinned | kept) & set(ranks)
            and not scene.is_refused(ranks, degree)
            and len(lent | set(ranks)) <= allowed
        ]
        if not candidates:
            return None
        ranks = min(candidates, key=lambda ranks: (sum(_load(scene, r) for r in ranks), ranks))
        reason = (
            f"request {request.request_id} needs {request.tokens} tokens, "
            f"{len(lent | set(ranks))} of {layout.workers} workers lent, {allowed} allowed"
        )
        return Change(ranks, degree, reason)

    def _split(self, ranks: tuple[int, ...], scene: Scene) -> Change | None:
        degree = len(ranks)
        quiet = scene.now - max(scene.quiet_since[rank] for rank in ranks)
        if (
            degree <= scene.base
            or scene.longs_of(ranks)
            or quiet < LINGER_S
            or scene.pinned & set(ranks)
            or scene.is_refused(ranks, scene.base)
            or any(request.degree <= degree for request in scene.waiting)
        ):
            return None
        return Change(ranks, scene.base, f"no long request for {quiet:.1f} s")

    def _kept_for_elder(self, request: LongRequest, scene: Scene) -> frozenset[int]:
        """Ranks that an older request of a higher degree waits for to become free.

        Else requests of a lower degree, one after the other, would keep it waiting for ever.
        """
        for elder in scene.waiting:
            if elder.since < request.since and elder.degree > request.degree:
                blocks = [r for r in scene.blocks(elder.degree) if not scene.pinned & set(r)]
                if blocks:
                    return frozenset(min(blocks, key=lambda ranks: (scene.longs_of(ranks), ranks)))
        return frozenset()

    def _obstacle(self, request: LongRequest, scene: Scene) -> str:
        blocks = scene.blocks(request.degree)
        if all(scene.pinned & set(ranks) for ranks in blocks):
            return "an operator has chosen the layout of every block that could hold it"
        if any(scene.longs_of(ranks) for ranks in blocks):
            return "other long requests have the workers that it needs"
        if any(scene.is_refused(ranks, request.degree) for ranks in blocks):
            return "workers have refused to merge; it is tried again"
        return "a transformation is running"


def _load(scene: Scene, rank: int) -> int:
    return scene.loads[rank].tokens
