"""Long requests that live while their instance becomes larger or smaller: degrees 2 and 4."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from amoeba_sglang.adapters.cpu.backend import KV_PAGE
from bench.long_request import score
from tests.e2e.conftest import QUARTET_POOL as POOL
from tests.e2e.conftest import split_all, start_afresh, wait_for_tokens

OUTPUT = 120
ALL = [0, 1, 2, 3]
# Longer than a worker's own pool, but with its output not than those of two.
LONG = random.Random(8).choices(range(100, 5000), k=POOL + 200)
SHORT = LONG[:90]


@pytest.fixture
def server(quartet):
    return quartet


@pytest.fixture
def at(server):
    """Bring all workers to a degree, with an empty cache."""

    def reach(degree):
        start_afresh(server)
        for first in range(0, 4, degree):
            if degree > 1:
                ranks = list(range(first, first + degree))
                assert server.transform(ranks, degree)[0] == 200

    return reach


@pytest.mark.parametrize(
    ("degree", "tokens"), [(4, len(LONG) + KV_PAGE), (2, 0)], ids=["4, in decode", "2, in prefill"]
)
def test_a_long_request_lives_through_a_change_to_the_other_degree_and_back(
    server, at, degree, tokens
):
    at(degree)
    expected = score(server, LONG, OUTPUT)
    short = server.generate(SHORT, 16, routed_dp_rank=0)["output_ids"]
    at(degree)
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(score, server, LONG, OUTPUT)
        wait_for_tokens(server, task, tokens)
        there = server.transform(ALL, 6 - degree)
        while_there = not task.done()
        back = server.transform(ALL, degree)
        prompt, output = task.result()
    assert (there[0], back[0]) == (200, 200), (there, back)
    assert while_there, "the request had ended before the change"
    assert prompt == pytest.approx(expected[0], rel=1e-4, abs=1e-4)
    assert output == pytest.approx(expected[1], rel=1e-4, abs=1e-4)
    split_all(server)
    assert server.generate(SHORT, 16, routed_dp_rank=0)["output_ids"] == short


def test_what_the_smaller_instance_cannot_hold_meanwhile_is_refused_with_the_numbers(server, at):
    at(4)
    tokens = LONG * 2
    expected = server.generate(tokens, OUTPUT)["output_ids"]
    at(4)
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(server.generate, tokens, OUTPUT)
        wait_for_tokens(server, task)
        status, reply = server.transform(ALL, 2)
        assert status == 409
        assert "tokens on slots that the change takes away" in reply["error"]
        assert "ranks [0, 1] have" in reply["error"]
        assert task.result()["output_ids"] == expected
    assert server.transform(ALL, 2)[0] == 200


def test_a_worker_that_would_no_longer_be_the_anchor_refuses_while_its_long_request_lives(
    server, at
):
    at(2)
    expected = server.generate(LONG, OUTPUT, routed_dp_rank=2)["output_ids"]
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(server.generate, LONG, OUTPUT, routed_dp_rank=2)
        wait_for_tokens(server, task)
        status, reply = server.transform(ALL, 4)
        assert status == 409
        assert f"needs up to {len(LONG) + OUTPUT} tokens" in reply["error"]
        assert f"can have {POOL - 2 * KV_PAGE} at degree 4" in reply["error"]
        assert task.result()["output_ids"] == expected
    assert server.transform(ALL, 4)[0] == 200
