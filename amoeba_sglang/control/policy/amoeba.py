"""Instances merge for requests that no single worker can hold, and split when these are gone.

After Algorithm 1 of arXiv 2509.19729: an instance that serves long requests is left to them, the
smallest degree that holds a request is made, and only if no instance has room. Beyond the paper:
the degree also follows the time that the prompt takes, how many workers are lent to long requests
follows what short ones leave free and how many long ones wait, and the degree without long
requests is the one that serves the present traffic with the fewest workers.
"""

from collections.abc import Sequence
from dataclasses import replace

from amoeba_sglang.control.policy.base import (
    Change,
    Decision,
    Hold,
    LongRequest,
    NewBase,
    RequestSize,
    Scene,
    View,
)
from amoeba_sglang.control.policy.least_load import place_on_least_loaded
from amoeba_sglang.control.policy.lending import allow_lending
from amoeba_sglang.control.policy.outlook import Outlook, expect_usual_traffic, foresee
from amoeba_sglang.control.policy.setting import SETTING, Setting
from amoeba_sglang.control.policy.soonest import place_soonest
from amoeba_sglang.control.policy.throughput import RequestClass, ThroughputTable


def place_beside_long_requests(request: RequestSize, view: View) -> Decision:
    """Where the request is expected to end first; before step costs are known, the least loaded
    worker of the instances that serve no long requests, if there are any."""
    if view.table is not None:
        return place_soonest(request, view, view.table)
    others = tuple(rank for rank in view.able if rank not in view.reserved)
    return place_on_least_loaded(request, replace(view, able=others or view.able))


class LongRequestRules:
    """The layout rules of the policy `amoeba`."""

    def __init__(self, setting: Setting = SETTING) -> None:
        self.setting = setting
        # What the last outlooks were made of, which changes far more rarely than they are needed.
        self._known: tuple[object, object, dict[int, Outlook]] | None = None

    def base(self, scene: Scene) -> NewBase | None:
        """The degree that serves the traffic with the fewest workers, if it saves enough."""
        setting, table = self.setting, scene.table
        if table is None or scene.pinned:
            return None
        fresh = scene.now - scene.base_since < setting.base_dwell_s
        if scene.evidence is None:
            kind, traffic = "usual traffic", expect_usual_traffic(table)
        elif fresh or scene.evidence < setting.base_evidence:
            # A few requests are no reason to change what they are served by, nor is a silence.
            return None
        else:
            kind, traffic = "the present traffic", scene.traffic
        outlooks = self._outlooks(table, traffic)
        busy = {degree: outlook.workers for degree, outlook in outlooks.items()}
        degree = min(busy, key=lambda degree: (busy[degree], degree))
        if busy[degree] > (1 - setting.base_gain) * busy[scene.base]:
            return None
        saved = 1 - busy[degree] / busy[scene.base]
        return NewBase(degree, f"{kind} takes {saved:.0%} fewer workers than at {scene.base}")

    def admit(self, request: LongRequest, scene: Scene, able: tuple[int, ...]) -> Decision | Hold:
        """An instance without a long prompt; else a merge if one may come; else behind others."""
        kept = self._kept_for_elder(request, scene)
        degrees, wanted = scene.layout.degrees, self._degree(request, scene)
        open_ranks = [rank for rank in able if rank not in kept]
        free = [rank for rank in open_ranks if self._is_free(rank, request, scene)]
        fast = [rank for rank in free if degrees[rank] >= wanted]
        if fast:
            rank = min(fast, key=lambda rank: (degrees[rank], _load(scene, rank), rank))
            return Decision(rank, f"degree {degrees[rank]} holds {request.tokens} tokens")
        change = self._merge(request, scene)
        if change is not None:
            return Hold(f"waits for ranks {list(change.ranks)} to merge")
        if free:
            rank = max(free, key=lambda rank: (degrees[rank], -_load(scene, rank), -rank))
            return Decision(rank, f"no merge to degree {wanted} is possible now")
        if open_ranks and scene.table is None:
            rank = min(open_ranks, key=lambda rank: (scene.longs[rank], _load(scene, rank), rank))
            return Decision(rank, f"behind {scene.longs[rank]} long requests, no merge is allowed")
        return Hold(self._obstacle(request, scene))

    def change(self, scene: Scene) -> Change | None:
        """A merge for the eldest that no free instance can hold, else a split of what is free."""
        for request in scene.waiting:
            if not self._has_room(request, scene) and (change := self._merge(request, scene)):
                return change
        for ranks in scene.layout.instances:
            if change := self._split(ranks, scene):
                return change
        if min(scene.layout.degrees) < scene.base:
            for ranks in scene.blocks(scene.base):
                if change := self._raise(ranks, scene):
                    return change
        return None

    def _degree(self, request: LongRequest, scene: Scene) -> int:
        """The smallest degree that holds the request and prefills it in time; if none does, the
        smallest that holds it: a higher one would cost throughput and miss the target too."""
        if scene.table is not None:
            for degree in scene.chain.degrees:
                if degree >= request.degree:
                    seconds = scene.table.prompt_seconds(degree, request.prompt_tokens)
                    if seconds <= self.setting.long_ttft_s:
                        return degree
        return request.degree

    def _is_free(self, rank: int, request: LongRequest, scene: Scene) -> bool:
        """Whether the instance of `rank` could begin with the request at once, or soon."""
        ranks = scene.layout.instance_of(rank)
        if not scene.longs_of(ranks):
            return True
        if scene.table is None:
            return False
        here = scene.table.degrees[len(ranks)]
        left_s = scene.loads[rank].to_prefill * here.cost.prefill
        held = sum(scene.loads[peer].tokens for peer in ranks)
        return left_s <= self.setting.pack_s and held + request.tokens <= here.kv_tokens

    def _has_room(self, request: LongRequest, scene: Scene) -> bool:
        wanted = self._degree(request, scene)
        return max(scene.layout.degrees) >= wanted and any(
            len(ranks) >= wanted and self._is_free(ranks[0], request, scene)
            for ranks in scene.layout.instances
        )

    def _merge(self, request: LongRequest, scene: Scene) -> Change | None:
        """The cheapest block that may merge for `request` now: the least KV changes worker."""
        degree, layout = self._degree(request, scene), scene.layout
        lent = {rank for rank, d in enumerate(layout.degrees) if d > scene.base}
        allowed = self._allowed(request, degree, scene)
        closed = scene.pinned | self._kept_for_elder(request, scene)
        closed = closed.union(
            rank for rank, d in enumerate(layout.degrees) if d >= degree or scene.longs[rank]
        )
        candidates = [
            ranks
            for ranks in scene.blocks(degree)
            if closed.isdisjoint(ranks)
            and len(lent.union(ranks)) <= allowed
            and not scene.is_refused(ranks, degree)
        ]
        if not candidates:
            return None
        ranks = min(candidates, key=lambda ranks: (sum(_load(scene, r) for r in ranks), ranks))
        reason = (
            f"request {request.request_id} needs {request.tokens} tokens, "
            f"{len(lent | set(ranks))} of {layout.workers} workers lent, {allowed} allowed"
        )
        return Change(ranks, degree, reason)

    def _allowed(self, request: LongRequest, degree: int, scene: Scene) -> int:
        table = scene.table
        outlook = None if table is None else self._outlooks(table, scene.traffic)[scene.base]
        return allow_lending(request, degree, scene, self.setting, outlook)

    def _outlooks(
        self, table: ThroughputTable, traffic: Sequence[RequestClass]
    ) -> dict[int, Outlook]:
        """By base degree."""
        known = self._known
        if known is None or known[0] is not table or known[1] != traffic:
            token_s = self.setting.token_s
            found = {base: foresee(table, base, traffic, token_s) for base in table.ordered}
            known = self._known = table, traffic, found
        return known[2]

    def _split(self, ranks: tuple[int, ...], scene: Scene) -> Change | None:
        degree = len(ranks)
        if degree <= scene.base:
            return None
        quiet = scene.now - max(scene.quiet_since[rank] for rank in ranks)
        linger = self.setting.linger_s
        if scene.table is not None:
            # Where a change is expensive, it must be rare.
            linger = max(linger, 2 * scene.table.transformation_s)
        if (
            scene.longs_of(ranks)
            or quiet < linger
            or scene.pinned & set(ranks)
            or scene.is_refused(ranks, scene.base)
            or any(request.degree <= degree for request in scene.waiting)
        ):
            return None
        return Change(ranks, scene.base, f"no long request for {quiet:.1f} s")

    def _raise(self, ranks: tuple[int, ...], scene: Scene) -> Change | None:
        degrees = [scene.layout.degrees[rank] for rank in ranks]
        if (
            max(degrees) >= scene.base
            or scene.longs_of(ranks)
            or scene.pinned & set(ranks)
            or scene.is_refused(ranks, scene.base)
        ):
            return None
        return Change(ranks, scene.base, f"the base degree is {scene.base}")

    def _kept_for_elder(self, request: LongRequest, scene: Scene) -> frozenset[int]:
        """Ranks that an older request of a higher degree waits for to become free.

        Else requests of a lower degree, one after the other, would keep it waiting forever.
        """
        for elder in scene.waiting:
            if elder.since < request.since and elder.degree > request.degree:
                blocks = [r for r in scene.blocks(elder.degree) if not scene.pinned & set(r)]
                if blocks:
                    quietest = min(blocks, key=lambda ranks: (scene.longs_of(ranks), ranks))
                    return frozenset(quietest)
        return frozenset()

    def _obstacle(self, request: LongRequest, scene: Scene) -> str:
        blocks = scene.blocks(request.degree)
        if all(scene.pinned & set(ranks) for ranks in blocks):
            return "an operator has chosen the layout of every block that could hold it"
        if any(scene.longs_of(ranks) for ranks in blocks):
            return "behind other long requests, no further merge is allowed now"
        if any(scene.is_refused(ranks, request.degree) for ranks in blocks):
            return "workers have refused to merge; it is tried again"
        return "a transformation is running"


def _load(scene: Scene, rank: int) -> int:
    return scene.loads[rank].tokens
