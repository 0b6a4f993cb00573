"""Least load first (LLF): the instance with the least work per worker, and its idlest worker."""

from amoeba_sglang.control.policy.base import Decision, RequestSize, View


def place_on_least_loaded(request: RequestSize, view: View) -> Decision:
    """Fewest requests per worker of an instance, then fewest tokens, then the lowest rank.

    Requests count before tokens because a decode step costs by requests; the members of an
    instance step together, so the instance is chosen before the worker.
    """

    loads, able = view.loads, set(view.able)

    def instance_load(ranks: tuple[int, ...]) -> tuple[float, float, tuple[int, ...]]:
        members = [loads[rank] for rank in ranks]
        requests = sum([load.requests for load in members])
        return requests / len(ranks), sum([load.tokens for load in members]) / len(ranks), ranks

    instance = min(
        (ranks for ranks in view.instances if not able.isdisjoint(ranks)), key=instance_load
    )
    candidates = [rank for rank in instance if rank in able]
    rank = min(candidates, key=lambda r: (loads[r].requests, loads[r].tokens, r))
    load = loads[rank]
    return Decision(
        rank, f"least loaded of {len(loads)}: {load.requests} requests, {load.tokens} tokens"
    )
