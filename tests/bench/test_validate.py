"""The simulated side of a validation; the emulated side is the replay of a real server."""

import random
from argparse import Namespace

import pytest

from amoeba_sglang.control.device import load_device
from bench.trace import TraceRequest
from bench.validate import LONG_INPUT, Case, make_recipe, simulate

DEVICE = load_device("h100-96-32b-tp-loss")
DRAW = random.Random(1)
TRACE = [TraceRequest(0.5 * n, DRAW.randint(50, 2000), DRAW.randint(2, 200)) for n in range(120)]
OPTIONS = Namespace(rows=100, seed=1)


@pytest.mark.parametrize("rate", [2.0, 10.0])
def test_the_recipe_brings_as_many_requests_a_second_as_the_case_says(rate):
    workload = make_recipe(Case("static", rate), TRACE, OPTIONS).apply(TRACE)
    assert len(workload.requests) / workload.span == pytest.approx(rate, rel=0.02)


def test_a_static_server_is_simulated_without_transformations():
    case = Case("static", 4.0)
    found = simulate(case, make_recipe(case, TRACE, OPTIONS).apply(TRACE), DEVICE, 8)
    assert found["changes_per_minute"] == 0
    # The last request ends after the last arrival.
    assert 3.0 < found["requests_per_s"] < 4.05


def test_long_requests_of_a_case_get_their_merge():
    case = Case("amoeba", 4.0, 2.0)
    workload = make_recipe(case, TRACE, OPTIONS).apply(TRACE)
    assert any(request.input_tokens == LONG_INPUT for request in workload.requests)
    assert simulate(case, workload, DEVICE, 8)["changes_per_minute"] > 0
