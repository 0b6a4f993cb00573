"""The bodies of `GET /amoeba/state` and `GET /get_load`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.policy import LongRequest, WorkerLoad
from amoeba_sglang.router.limits import Capacity, RequestLimits
from amoeba_sglang.router.operation import Operations


def describe_server(
    config: AmoebaConfig,
    operations: Operations,
    capacity: Capacity,
    snapshots: Iterable[Any],
) -> dict[str, Any]:
    """Layout, load and history of the server.

    snapshots: one LoadSnapshot per worker; they lag behind by up to a step.
    """
    by_rank = {snapshot.dp_rank: snapshot for snapshot in snapshots}
    instances = []
    for ranks in operations.layout.instances:
        loads = [by_rank[rank] for rank in ranks if rank in by_rank]
        instances.append(
            {
                "ranks": list(ranks),
                "degree": len(ranks),
                "running": sum(load.num_running_reqs for load in loads),
                "queued": sum(load.num_waiting_reqs for load in loads),
                "used_tokens": sum(load.num_used_tokens for load in loads),
                "max_tokens": capacity.instance_tokens(len(ranks)),
            }
        )
    emulation = config.emulation
    return {
        "EMULATED": None if emulation is None else emulation.describe(),
        "workers": config.workers,
        "degrees": list(config.degrees),
        "instances": instances,
        "max_request_tokens": RequestLimits.of_layout(capacity, operations.layout).request_tokens,
        "operation": operations.running,
        "history": operations.history,
    }


def late_share(times: Iterable[tuple[float, float]]) -> float:
    """By how much emulated devices lag behind: of the worker that is worst, its emulated seconds
    (late, busy) as a share. What is measured while it is not small is the dilation's fault."""
    return max((late / max(late + busy, 1e-9) for late, busy in times), default=0.0)


def describe_loads(
    loads: Sequence[WorkerLoad], waiting: Iterable[LongRequest]
) -> list[dict[str, int]]:
    """One entry a worker, of which SGLang's gateway adds up the tokens of a server.

    waiting: long requests in the router. They have no worker yet, and count as the first one's.
    """
    entries = [
        {
            "dp_rank": rank,
            "num_reqs": load.requests,
            "num_waiting_reqs": load.queued,
            "num_tokens": load.tokens,
        }
        for rank, load in enumerate(loads)
    ]
    for request in waiting:
        entries[0]["num_reqs"] += 1
        entries[0]["num_waiting_reqs"] += 1
        entries[0]["num_tokens"] += request.tokens
    return entries
