"""The instance that is expected to end a request first, by the measured cost of its steps."""

import math

from amoeba_sglang.control.policy.base import Decision, RequestSize, View
from amoeba_sglang.control.policy.throughput import ThroughputTable

# Of a request that names no limit.
_USUAL_OUTPUT = 256


def place_soonest(request: RequestSize, view: View, table: ThroughputTable) -> Decision:
    """The rank with the least expected end: prompts before it, its own prompt without what is
    cached there, waiting for KV, and its output at the pace of the instance.

    A cached prefix counts for what it saves, so it attracts requests until the queue costs more.
    """
    output = _USUAL_OUTPUT if request.output_tokens is None else request.output_tokens
    able, loads, cached = set(view.able), view.loads, view.cached
    best, best_s, best_wait = -1, math.inf, 0.0
    for ranks in view.instances:
        here = table.degrees[len(ranks)]
        cost = here.cost
        if len(ranks) == 1:
            choices = able & set(ranks)
            load = loads[ranks[0]]
            rows, held, queued = load.running, load.tokens, load.to_prefill
        else:
            choices = _candidates([rank for rank in ranks if rank in able], view)
            members = [loads[rank] for rank in ranks]
            rows = sum(load.running for load in members)
            held = sum(load.tokens for load in members)
            queued = sum(load.to_prefill for load in members)
        step_s = cost.fixed + cost.row * (rows + 1) + cost.context * (held - queued)
        decode_s = output * step_s
        lacking = held + request.prompt_tokens + output - here.kv_tokens
        # Those that run give back all that they hold in about the time of one output.
        room_s = decode_s * lacking / max(1, held) if lacking > 0 else 0.0
        if room_s + decode_s >= best_s:
            continue
        for rank in choices:
            before = queued
            if len(ranks) > 1:
                # Members prefill side by side, so only shorter queues delay this one fully.
                mine = loads[rank].to_prefill + request.prompt_tokens
                before = sum(min(load.to_prefill, mine) for load in members)
            wait_s = room_s + before * cost.prefill
            wait_s += cost.prompt_seconds(request.prompt_tokens, cached.get(rank, 0))
            if wait_s + decode_s < best_s:
                best, best_s, best_wait = rank, wait_s + decode_s, wait_s
    return Decision(
        best, f"first token expected in {best_wait:.2f} s and the end in {best_s:.2f} s"
    )


def _candidates(choices: list[int], view: View) -> set[int]:
    """Of the members of an instance the one with the least before it, and the best cached one."""
    loads = view.loads
    if not choices:
        return set()
    found = {min(choices, key=lambda r: (loads[r].to_prefill, loads[r].tokens, r))}
    if view.cached:
        found.add(max(choices, key=lambda r: (view.cached.get(r, 0), -r)))
    return found
