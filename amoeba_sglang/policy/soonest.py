"""The instance that is expected to end a request first, by the measured cost of its steps."""

from __future__ import annotations

from amoeba_sglang.policy.base import Decision, RequestSize, View
from amoeba_sglang.policy.throughput import ThroughputTable

# Of a request that names no limit.
_USUAL_OUTPUT = 256


def place_soonest(request: RequestSize, view: View, table: ThroughputTable) -> Decision:
    """The rank with the least expected end: prompts before it, its own prompt without what is
    cached there, waiting for KV, and its output at the pace of the instance.

    A cached prefix counts for what it saves, so it attracts requests until the queue costs more.
    """
    output = _USUAL_OUTPUT if request.output_tokens is None else request.output_tokens
    able = set(view.able)
    best, best_s, best_wait = -1, float("inf"), 0.0
    for ranks in view.instances:
        choices = [rank for rank in ranks if rank in able]
        if not choices:
            continue
        degree = len(ranks)
        here = table.degrees[degree]
        loads = [view.loads[rank] for rank in ranks]
        rows = held = queued = 0
        for load in loads:
            rows += load.running
            held += load.tokens
            queued += load.to_prefill
        step_s = here.cost.seconds(rows + 1, 0.0, held - queued)
        lacking = held + request.prompt_tokens + output - here.kv_tokens
        # Those that run give back all that they hold in about the time of one output.
        room_s = output * step_s * lacking / max(1, held) if lacking > 0 else 0.0
        for rank in _candidates(choices, view):
            mine = view.loads[rank].to_prefill + request.prompt_tokens
            cached = view.cached.get(rank, 0)
            # Members of an instance prefill side by side, so the shorter queues delay this one.
            before = sum(min(load.to_prefill, mine) for load in loads)
            prompt_s = here.cost.prompt_seconds(request.prompt_tokens, cached)
            wait_s = room_s + before * here.cost.prefill + prompt_s
            seconds = wait_s + output * step_s
            if seconds < best_s:
                best, best_s, best_wait = rank, seconds, wait_s
    return Decision(
        best, f"first token expected in {best_wait:.2f} s and the end in {best_s:.2f} s"
    )


def _candidates(choices: list[int], view: View) -> set[int]:
    """Of the members of an instance the one with the least before it, and the best cached one."""
    loads = view.loads
    found = {min(choices, key=lambda r: (loads[r].to_prefill, loads[r].tokens, r))}
    if view.cached:
        found.add(max(choices, key=lambda r: (view.cached.get(r, 0), -r)))
    return found
