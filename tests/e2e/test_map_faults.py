"""A page that cannot be mapped undoes the change; a worker that dies in one leaves nothing."""

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import NARROW_POOL as POOL
from tests.e2e.conftest import split_all, wait_for_tokens
from tests.serving.fault_clients import Remains, strike_under_load

LONG = random.Random(3).choices(range(100, 5000), k=2 * POOL + 100)
SHORT = LONG[:80]


@pytest.fixture
def order(mapping_fault):
    return mapping_fault


@pytest.fixture
def server(narrow_pair):
    split_all(narrow_pair)
    return narrow_pair


def degrees(server):
    return [instance["degree"] for instance in server.state()["instances"]]


def fail_once(server, order, degree, mapping):
    """A change in which one mapping of rank 1 fails, beside a request, and the output of that."""
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(server.generate, SHORT, 60, routed_dp_rank=1)
        wait_for_tokens(server, beside)
        order.write_text(f"fail {mapping}")
        status, reply = server.transform([0, 1], degree)
        assert not order.exists(), "no mapping was so late"
        assert (status, reply["outcome"]) == (500, "undone"), reply
        assert "rank 1: a mapping was made to fail" in reply["error"]
        return beside.result()["output_ids"]


# A merge maps once behind each K and V range of its layers, a split at least once a matrix.
@pytest.mark.parametrize("mapping", [1, 9])
def test_a_mapping_that_fails_undoes_the_change_and_serving_goes_on(server, order, mapping):
    expected = server.generate(SHORT, 60, routed_dp_rank=1)["output_ids"]
    assert fail_once(server, order, 2, mapping) == expected
    assert degrees(server) == [1, 1]
    assert server.generate(SHORT, 60, routed_dp_rank=0)["output_ids"] == expected

    assert server.transform([0, 1], 2)[0] == 200
    long = server.generate(LONG, 8)["output_ids"]
    assert fail_once(server, order, 1, mapping) == expected
    assert degrees(server) == [2]
    # The grown slots are back as well.
    server.post("/flush_cache", {})
    assert server.generate(LONG, 8)["output_ids"] == long
    assert server.transform([0, 1], 1)[0] == 200
    assert server.generate(SHORT, 60, routed_dp_rank=1)["output_ids"] == expected


def test_a_worker_killed_in_the_middle_of_a_mapping_leaves_nothing_behind(server, order):
    """The last test: the server ends."""
    assert server.transform([0, 1], 2)[0] == 200
    remains = Remains(server)
    victim = server.workers()[1]
    split = ThreadPoolExecutor(1)

    def strike():
        order.write_text("kill 6")
        split.submit(server.transform, [0, 1], 1)
        victim.wait(30)
        return time.monotonic()

    when, endings = asyncio.run(strike_under_load(server, [0, 1], strike, 10, tokens=150))
    assert not order.exists()
    assert all(ending.error for ending in endings), endings
    assert max(ending.when - when for ending in endings) < 2
    assert server.process.wait(10) not in (0, None), server.tail()
    split.shutdown()
    assert remains.processes() == []
    assert remains.files() == []
