"""A replay that a server has served, simulated: what is measured must agree with what is told."""

from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.policy.throughput import ThroughputTable
from bench.simulation import requests
from bench.simulation.instance import Batching
from bench.simulation.mechanisms import Mechanism
from bench.simulation.run import Contender, Outcome, Run
from bench.trace import Workload


def batching_of(chunk_tokens: int, mixed: bool, ahead: bool) -> Batching:
    """As a server batches: chunks are cut at so many tokens, not at a time."""
    return Batching(mixed, chunk_tokens, step_s=60.0, ahead=ahead)


def simulate_replay(
    workload: Workload,
    policy: str,
    mechanism: Mechanism,
    workers: int,
    batching: Batching,
    *,
    long_tokens: int,
) -> Outcome:
    """The arrivals and lengths of `workload` on one host that begins at degree 1; `long_tokens`:
    from so many on a request counts as long."""
    chosen = POLICIES[policy]
    arrivals = requests.Workload(
        policy,
        tuple(one.arrival for one in workload.requests),
        tuple(one.input_tokens for one in workload.requests),
        tuple(one.output_tokens for one in workload.requests),
        tuple(one.tokens >= long_tokens for one in workload.requests),
        changes="",
    )
    layout = None if chosen.layout is not None else (1,) * workers
    contender = Contender(policy, chosen, mechanism, layout)
    return Run(contender, arrivals, 1.0, batching, workers).play(endless=True)


def measured_mechanism(table: ThroughputTable) -> Mechanism:
    """Steps and transformations at what a server has measured of itself."""
    return Mechanism(
        "measured",
        f"steps and transformations as measured by the server: {table.source}",
        {degree: one.cost for degree, one in table.degrees.items()},
        {degree: one.kv_tokens for degree, one in table.degrees.items()},
        lambda before, after, live: table.transformation_s,
    )
