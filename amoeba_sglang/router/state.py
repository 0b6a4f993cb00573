"""The body of `GET /amoeba/state`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from amoeba_sglang.config import AmoebaConfig
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
