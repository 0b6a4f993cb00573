"""The layout rules of the paper's baselines: long requests go to a block as short ones do, which
merges unless it holds them already, however many are merged, and splits when none is left."""

from amoeba_sglang.control.policy.base import Change, Decision, Hold, LongRequest, NewBase, Scene


class PlainRules:
    """in_turn: blocks take turns (RR); else the least loaded takes the request (LLF)."""

    def __init__(self, in_turn: bool) -> None:
        self._in_turn = in_turn

    def base(self, scene: Scene) -> NewBase | None:
        """The base degree stays."""
        return None

    def admit(self, request: LongRequest, scene: Scene, able: tuple[int, ...]) -> Decision | Hold:
        """The block's instance if it holds the request now."""
        ranks = self._block(request, scene)
        anchor = scene.layout.instance_of(ranks[0])[0]
        if anchor in able:
            return Decision(anchor, "its turn" if self._in_turn else "the least loaded block")
        return Hold(f"waits for ranks {list(ranks)} to merge")

    def change(self, scene: Scene) -> Change | None:
        """A merge for the request that waits, else a split of an instance without long requests."""
        for request in scene.waiting:
            ranks = self._block(request, scene)
            degrees = [scene.layout.degrees[rank] for rank in ranks]
            if max(degrees) < request.degree and not self._is_closed(ranks, request.degree, scene):
                reason = f"request {request.request_id} needs {request.tokens} tokens"
                return Change(ranks, request.degree, reason)
        wanted = {rank for request in scene.waiting for rank in self._block(request, scene)}
        for ranks in scene.layout.instances:
            if len(ranks) > scene.base and not wanted & set(ranks):
                if not self._is_closed(ranks, scene.base, scene):
                    return Change(ranks, scene.base, "no long request is left")
        return None

    def _block(self, request: LongRequest, scene: Scene) -> tuple[int, ...]:
        """The aligned block of the request's degree that it goes to."""
        blocks = scene.blocks(request.degree)
        if self._in_turn:
            return blocks[request.turn % scene.layout.workers // request.degree]
        # An instance that long requests keep smaller cannot merge; one already large need not.
        ready = [b for b in blocks if scene.layout.degrees[b[0]] >= request.degree]
        able = ready + [b for b in blocks if b not in ready and not scene.longs_of(b)]
        return min(able or blocks, key=lambda b: (self._load(b, scene), b))

    @staticmethod
    def _load(ranks: tuple[int, ...], scene: Scene) -> tuple[int, int]:
        loads = [scene.loads[rank] for rank in scene.layout.instance_of(ranks[0])]
        requests = sum(load.requests for load in loads)
        return requests * len(ranks) // len(loads), sum(load.tokens for load in loads)

    @staticmethod
    def _is_closed(ranks: tuple[int, ...], degree: int, scene: Scene) -> bool:
        return bool(
            scene.longs_of(ranks) or scene.pinned & set(ranks) or scene.is_refused(ranks, degree)
        )
