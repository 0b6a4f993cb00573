import random

import pytest

from amoeba_sglang.control.policy.throughput import DegreeThroughput, StepCost, ThroughputTable
from bench.simulation.replayed import batching_of, measured_mechanism, simulate_replay
from bench.trace import TraceRequest, Workload

COSTS = {1: StepCost(0.02, 0.001, 0.0005, 1e-6, 1e-8), 2: StepCost(0.03, 0.001, 0.0004, 1e-6, 1e-8)}
TABLE = ThroughputTable(
    {1: DegreeThroughput(COSTS[1], 512, 16), 2: DegreeThroughput(COSTS[2], 2048, 32)}, 0.2, "a test"
)


def replay(policy, *requests, ahead=False):
    workload = Workload(tuple(TraceRequest(*one) for one in requests), 0, 0)
    mechanism = measured_mechanism(TABLE)
    batching = batching_of(256, mixed=False, ahead=ahead)
    return simulate_replay(workload, policy, mechanism, 2, batching, long_tokens=512)


def test_a_lone_request_takes_what_its_steps_were_measured_to_take():
    found = replay("static", (0.0, 100, 1), (5.0, 100, 1))
    prefill = COSTS[1].seconds(0, 100, 0, 100 * 50)
    assert found.short_ttft_median == pytest.approx(prefill)
    # It ends with the second request's only token.
    assert found.done == 2 and found.completed == pytest.approx(2 / (5.0 + prefill))


def test_a_first_token_is_handed_out_behind_the_step_after_it():
    found = replay("static", (0.0, 100, 3))
    prefill, decode = COSTS[1].seconds(0, 100, 0, 100 * 50), COSTS[1].seconds(1, 0, 100)
    assert found.short_ttft_median == pytest.approx(prefill + decode)


def test_a_step_that_is_launched_ahead_lacks_who_comes_later():
    """The median TTFT of emulated servers was 1.8 times the simulated one."""
    found = replay("static", (0.0, 100, 40), (0.0, 100, 40), (0.5, 100, 1), ahead=True)
    prefill = COSTS[1].seconds(0, 100, 0, 100 * 50)
    decode = COSTS[1].seconds(1, 0, 120)
    # The rest of one decode step and one more, then its own.
    assert prefill + decode < found.short_ttft_p99 < prefill + 2.1 * decode


def test_a_request_that_one_worker_does_not_hold_waits_for_its_merge():
    found = replay("amoeba", (0.0, 600, 20), (30.0, 50, 2))
    assert found.rejected == 0 and found.changes_per_minute > 0
    # Three chunks, behind a transformation.
    assert found.long_ttft_p99 > 0.2 + 3 * COSTS[2].fixed


def test_the_learned_costs_survive_a_simulation_s_own_table():
    prices = measured_mechanism(TABLE).table().degrees
    for degree, cost in COSTS.items():
        assert prices[degree].cost.fixed == pytest.approx(cost.fixed)
        assert prices[degree].cost.row == pytest.approx(cost.row)
        assert prices[degree].cost.prefill == cost.prefill


def test_no_request_is_lost_under_load():
    draw = random.Random(3)
    requests = [(0.05 * n, draw.randint(5, 400), draw.randint(1, 40)) for n in range(150)]
    for policy in ("static", "amoeba", "round_robin", "least_load"):
        assert replay(policy, *requests).done == 150
