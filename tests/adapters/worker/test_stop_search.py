import time

import pytest

from amoeba_sglang.adapters.worker.stop_search import STEP_SECONDS, StopSearch

EXPONENTIAL = "(a|aa)+$"


def test_a_match_is_found():
    assert StopSearch(1)("b+", "aabb").span() == (2, 4)
    assert StopSearch(1)("c", "aabb") is None


def test_a_search_that_takes_exponential_time_ends_within_its_share_of_the_step():
    started = time.thread_time()
    with pytest.raises(TimeoutError, match="ms"):
        StopSearch(5)(EXPONENTIAL, "a" * 60 + "b")
    assert time.thread_time() - started < 20 * STEP_SECONDS
