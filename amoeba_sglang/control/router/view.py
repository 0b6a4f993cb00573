"""What a page that is looked at hears twice a second: small, and only what is new of a history.

The answer to `ViewAsked`. Lists go by instance, in the order of their ranks, so that 64 workers
still fit into a few hundred bytes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from amoeba_sglang.control.router.books import Books
from amoeba_sglang.control.router.layout_keeper import FixedLayout
from amoeba_sglang.control.router.limits import Capacity
from amoeba_sglang.control.router.loads import Snapshot
from amoeba_sglang.control.router.operation import HISTORY_SIZE
from amoeba_sglang.control.router.state import SCHEMA
from amoeba_sglang.control.router.terms import Terms

# Long requests that are shown; the others are counted.
_SHOWN = 32


def describe_view(
    terms: Terms, books: Books, rules: FixedLayout, since: float | None, now: float
) -> dict[str, Any]:
    """`since`: the `now` of an earlier answer; None: also what a page must know once."""
    operations = books.operations
    long = sorted(_long_requests(books, now), key=lambda one: -one["seconds"])
    view: dict[str, Any] = {
        "now": now,
        "instances": _instances(terms.capacity, operations.layout.instances, books.loads.snapshots),
        "operation": operations.running,
        "long": long[:_SHOWN],
        "long_count": len(long),
        "long_waiting": sum(one["rank"] is None for one in long),
        "ended": [
            {**record.to_json(), "at": record.ended_at}
            for record in operations.history
            if since is None or record.ended_at > since
        ],
        "decided": [
            {"at": at, "decision": decision, "reason": reason}
            for at, decision, reason in rules.decisions
            if since is None or at > since
        ],
    }
    if since is None:
        capacity = terms.capacity
        view["server"] = {
            "schema": SCHEMA,
            "plane": terms.plane,
            "emulated": terms.emulated is not None,
            "workers": terms.workers,
            "layers": terms.layers,
            "degrees": list(terms.chain.degrees),
            "own_tokens": capacity.own_tokens,
            "instance_tokens": {d: capacity.instance_tokens(d) for d in terms.chain.degrees},
            "automatic": terms.policy.layout is not None,
            "opened": books.opened,
            "history": HISTORY_SIZE,
        }
    return view


def leased_tokens(capacity: Capacity, ranks: Sequence[int], anchor: Snapshot) -> int:
    """What the first worker of an instance has of the others' own slots; snapshots lag behind."""
    whole = capacity.own_tokens + capacity.grown_tokens[len(ranks)]
    return max(0, anchor.held_tokens - whole) if len(ranks) > 1 else 0


def _instances(
    capacity: Capacity, instances: Sequence[Sequence[int]], snapshots: Sequence[Snapshot]
) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {
        name: [] for name in ("degree", "running", "queued", "used", "leased")
    }
    for ranks in instances:
        loads = [snapshots[rank] for rank in ranks]
        found["degree"].append(len(ranks))
        found["running"].append(sum(load.running for load in loads))
        found["queued"].append(sum(load.waiting for load in loads))
        found["used"].append(sum(load.used_tokens for load in loads))
        found["leased"].append(leased_tokens(capacity, ranks, loads[0]))
    return found


def _long_requests(books: Books, now: float) -> Iterator[dict[str, Any]]:
    """Those that wait, with the reason, and those that have a worker."""
    for queue in (books.queue, books.held):
        for waiting in queue:
            yield {
                "rid": waiting.long.request_id,
                "tokens": waiting.long.tokens,
                "degree": waiting.long.degree,
                "rank": None,
                "seconds": round(now - waiting.long.since, 3),
                "reason": waiting.reason or "behind others of its degree",
            }
    for promise in books.longs.living():
        yield {
            "rid": promise.request_id,
            "tokens": promise.tokens,
            "rank": promise.rank,
            "seconds": round(now - promise.since, 3),
        }
