"""The default policy: nobody asks for a transformation, and long requests get theirs."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.long_request import run_all, score
from tests.e2e.conftest import AUTOMATIC_POOL as POOL

LONG = random.Random(7).choices(range(100, 5000), k=2 * POOL + 60)
SHORTS = [LONG[start : start + 70] for start in range(0, 280, 35)]


@pytest.fixture(scope="module")
def expected(pair):
    """Log-probabilities of a pool that is large enough at degree 1, where nothing changes."""
    return score(pair, LONG), run_all(pair, SHORTS, 40)


@pytest.fixture(scope="module")
def server(automatic_servers):
    return automatic_servers[0]


def degrees(state):
    return [instance["degree"] for instance in state["instances"]]


def operations(history):
    return [one["operation_id"] for one in history]


def wait_for(server, layout, seconds=30.0):
    end = time.monotonic() + seconds
    while degrees(state := server.state()) != layout or state["operation"]:
        assert time.monotonic() < end, state
        time.sleep(0.1)
    return state


def test_a_long_request_is_merged_for_and_split_behind_while_short_ones_go_on(expected, server):
    (prompt, output), shorts = expected
    before = server.state()
    assert degrees(before) == [1, 1]
    with ThreadPoolExecutor(len(SHORTS) + 1) as pool:
        beside = [pool.submit(server.generate, tokens, 40) for tokens in SHORTS]
        long = pool.submit(score, server, LONG).result()
        assert [task.result()["output_ids"] for task in beside] == shorts
    assert long[0] == pytest.approx(prompt, rel=1e-4, abs=1e-4)
    assert long[1] == pytest.approx(output, rel=1e-4, abs=1e-4)
    state = wait_for(server, [1, 1])
    done = state["history"][len(before["history"]) :]
    assert [one["kind"] for one in done] == ["merge", "split"]
    assert state["long_requests"] == [0, 0] and state["waiting"]["count"] == 0
    decisions = [one["decision"] for one in state["decisions"][len(before["decisions"]) :]]
    assert decisions[0] == "ranks [0, 1] to degree 2"
    assert decisions[-1] == "ranks [0, 1] to degree 1"
    # They serve short requests again, and their pools are whole.
    assert run_all(server, SHORTS, 40) == shorts


def test_short_requests_alone_change_nothing(server):
    before = wait_for(server, [1, 1])["history"]
    with ThreadPoolExecutor(len(SHORTS)) as pool:
        list(pool.map(lambda tokens: server.generate(tokens, 60), SHORTS * 2))
    assert operations(server.state()["history"]) == operations(before)


def test_a_client_that_gives_up_waiting_or_running_leaves_no_merged_instance(server):
    wait_for(server, [1, 1])
    body = {"input_ids": LONG, "sampling_params": {"max_new_tokens": 400, "ignore_eos": True}}
    with pytest.raises(TimeoutError):
        server.post("/generate", {**body, "rid": "gone"}, timeout=4.0)
    state = wait_for(server, [1, 1])
    assert state["long_requests"] == [0, 0] and state["waiting"]["count"] == 0


def test_what_no_layout_holds_is_refused_at_once(server):
    status, reply = server.post("/generate", {"input_ids": LONG * 7})
    assert status == 400
    assert "no layout" in reply["error"]["message"]
