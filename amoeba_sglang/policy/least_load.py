"""Least load first (LLF): the instance with the least work per worker, and its idlest worker."""

from __future__ import annotations

from amoeba_sglang.policy.base import Decision, RequestSize, View


def place_on_least_loaded(request: RequestSize, view: View) -> Decision:
    """Fewest requests per worker of an instance, then fewest tokens, then the lowest rank.

    Requests count before tokens because a decode step costs by requests; the members of an
    instance step together, so the instance is chosen before the worker.
    """

    def instance_load(instance: tuple[int, ...]) -> tuple[float, float]:
        requests = sum(view.loads[rank].requests for rank in instance)
        tokens = sum(view.loads[rank].tokens for rank in instance)
        return requests / len(instance), tokens / len(instance)

    able = [ranks for ranks in view.instances if set(ranks) & set(view.able)]
    instance = min(able, key=lambda ranks: (*instance_load(ranks), ranks))
    candidates = [rank for rank in instance if rank in view.able]
    rank = min(candidates, key=lambda r: (view.loads[r].requests, view.loads[r].tokens, r))
    load = view.loads[rank]
    return Decision(
        rank, f"least loaded of {len(view.loads)}: {load.requests} requests, {load.tokens} tokens"
    )
