"""The body of `GET /amoeba/state`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.router.limits import RequestLimits
from amoeba_sglang.router.operation import Operations


def describe_server(
    config: AmoebaConfig,
    operations: Operations,
    limits: RequestLimits,
    snapshots: Iterable[Any],
    capacity: int,
) -> dict[str, Any]:
    """Layout, load and history of the server.

    snapshots: one LoadSnapshot per worker; they lag behind by up to a step. capacity: tokens that
    one worker's pool holds; an instance holds as many times its degree.
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
                "max_tokens": len(ranks) * capacity,
            }
        )
    return {
        "workers": config.workers,
        "degrees": list(config.degrees),
        "instances": instances,
        "max_request_tokens": limits.request_tokens,
        "operation": operations.running,
        "history": operations.history,
    }
