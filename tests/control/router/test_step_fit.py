import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.device.device_file import load_device
from amoeba_sglang.control.device.step_work import StepWork
from amoeba_sglang.control.policy.throughput import StepCost
from amoeba_sglang.control.router.step_fit import StepFit
from amoeba_sglang.control.worker.step_meter import features


def seconds_of(cost, work):
    return cost.seconds(
        work.decode_rows, work.prefill_tokens, work.context_tokens, work.prefill_context
    )


def add(fit, works, seconds):
    rows = [features(work) / taken for work, taken in zip(works, seconds, strict=True)]
    sums = np.vstack([sum(np.outer(row, row) for row in rows), sum(rows)])
    fit.add(len(rows), sums)


def traffic(seed, count=400):
    """Decodes of 1 to 60 rows, prefill chunks, and both at once."""
    draw = np.random.default_rng(seed)
    works = []
    for number in range(count):
        rows = int(draw.integers(1, 60)) if number % 3 else 0
        new = 0 if number % 3 == 1 else int(draw.integers(16, 2048))
        context = rows * float(draw.integers(100, 4000))
        works.append(StepWork(new, new * float(draw.integers(1, 8000)), rows, context))
    return works


COEFFICIENT = st.floats(0.1, 10)


@settings(deadline=None, max_examples=50)
@given(st.tuples(*[COEFFICIENT] * 5), st.integers(0, 99))
def test_costs_that_are_linear_are_found(factors, seed):
    usual = (0.02, 1e-4, 5e-5, 1e-7, 1e-9)
    cost = StepCost(*(a * b for a, b in zip(usual, factors, strict=True)))
    works = traffic(seed)
    fit = StepFit()
    add(fit, works, [seconds_of(cost, work) for work in works])
    found = fit.cost()
    for work in traffic(seed + 1):
        assert seconds_of(found, work) == pytest.approx(seconds_of(cost, work), rel=0.02)


@pytest.mark.parametrize("name", ["h100-96-32b-tp-loss", "a100-80-32b-roofline"])
@pytest.mark.parametrize("degree", [1, 2, 4, 8])
def test_the_steps_of_a_roofline_are_met_within_a_few_percent_on_average(name, degree):
    device, works = load_device(name), traffic(7)
    seconds = [
        device.step_seconds(
            degree,
            work.prefill_tokens,
            work.prefill_context,
            work.decode_rows,
            work.context_tokens,
        )
        for work in works
    ]
    fit = StepFit()
    add(fit, works, seconds)
    cost = fit.cost()
    found = [seconds_of(cost, work) for work in works]
    assert np.mean(np.abs(np.array(found) / seconds - 1)) < 0.12
    assert sum(found) == pytest.approx(sum(seconds), rel=0.1)


def test_no_cost_is_negative_whatever_is_measured():
    draw = np.random.default_rng(3)
    fit = StepFit()
    add(fit, traffic(1), draw.uniform(0.001, 2.0, 400))
    cost = fit.cost()
    assert min(cost.fixed, cost.row, cost.prefill, cost.context, cost.attention) >= 0


def test_what_steps_leave_open_is_as_before():
    prior = StepCost(0.01, 1e-4, 4e-5, 1e-7, 2e-9)
    fit = StepFit(prior)
    decodes = [StepWork(0, 0, rows, rows * 300.0) for rows in range(1, 50)]
    add(fit, decodes, [0.02 + 1e-4 * work.decode_rows for work in decodes])
    cost = fit.cost()
    assert cost.prefill == pytest.approx(prior.prefill)
    assert cost.attention == pytest.approx(prior.attention)
    assert seconds_of(cost, decodes[20]) == pytest.approx(0.0221, rel=0.02)


def test_newer_steps_replace_older_ones():
    fit, works = StepFit(), traffic(5)
    slow, fast = StepCost(0.2, 0, 1e-3, 0, 0), StepCost(0.02, 0, 1e-4, 0, 0)
    add(fit, works, [seconds_of(slow, work) for work in works])
    for _ in range(100):
        add(fit, works, [seconds_of(fast, work) for work in works])
    found = fit.cost()
    for work in works:
        assert seconds_of(found, work) == pytest.approx(seconds_of(fast, work), rel=0.05)
