"""The bodies of `GET /amoeba/state` and `GET /get_load`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from amoeba_sglang.control.policy.base import LongRequest, WorkerLoad
from amoeba_sglang.control.router.limits import RequestLimits
from amoeba_sglang.control.router.loads import Snapshot
from amoeba_sglang.control.router.operation import Operations
from amoeba_sglang.control.router.terms import Terms

SCHEMA = 1
"""Raised when a field of docs/interface.md goes, or changes its name or meaning."""


def describe_server(
    terms: Terms,
    operations: Operations,
    snapshots: Sequence[Snapshot],
    figures: Sequence[Mapping[str, float]],
    now: float,
) -> dict[str, Any]:
    """Layout, load and history of the server; snapshots, by rank, lag behind by up to a step.
    figures: what the devices of workers have counted."""
    capacity, instances = terms.capacity, []
    for ranks in operations.layout.instances:
        loads = [snapshots[rank] for rank in ranks]
        instances.append(
            {
                "ranks": list(ranks),
                "degree": len(ranks),
                "running": sum(load.running for load in loads),
                "queued": sum(load.waiting for load in loads),
                "used_tokens": sum(load.used_tokens for load in loads),
                "max_tokens": capacity.instance_tokens(len(ranks)),
            }
        )
    return {
        "schema": SCHEMA,
        "plane": terms.plane,
        "EMULATED": terms.emulated and {**terms.emulated, "late_share": late_share(figures)},
        "device": add_up(figures),
        "workers": terms.workers,
        "degrees": list(terms.chain.degrees),
        "instances": instances,
        "max_request_tokens": RequestLimits.of_layout(capacity, operations.layout).request_tokens,
        "operation": operations.running,
        "history": [record.to_json_at(now) for record in operations.history],
    }


def late_share(figures: Iterable[Mapping[str, float]]) -> float:
    """By how much emulated devices lag behind: of the worker that is worst, its late seconds as a
    share. What is measured while it is not small is the dilation's fault."""
    times = [(of["late_seconds"], of["busy_seconds"]) for of in figures if "late_seconds" in of]
    return max((late / max(late + busy, 1e-9) for late, busy in times), default=0.0)


def add_up(figures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Over all workers, by name."""
    total: Counter[str] = Counter()
    for of in figures:
        total.update(of)
    return dict(sorted(total.items()))


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
