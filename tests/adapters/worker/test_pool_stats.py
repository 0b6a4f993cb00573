"""Tokens on grown and leased slots are in every gauge, and lent slots are nobody's here."""

from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang.srt.managers.scheduler_components.pool_stats_observer import (
    SchedulerPoolStatsObserver,
)

from amoeba_sglang.adapters.worker.pool_stats import ElasticPoolStatsObserver, capacity_tokens
from amoeba_sglang.control.layout.slots import FIRST_LEASED
from tests.adapters.model.allocators import GROWN, SIZE, make


def observe(allocator, evictable=0):
    known = dict.fromkeys(field.name for field in fields(SchedulerPoolStatsObserver))
    known |= {
        "tree_cache": SimpleNamespace(evictable_size=lambda: evictable),
        "token_to_kv_pool_allocator": allocator,
        "max_total_num_tokens": SIZE * allocator.page_size,
    }
    upstream = SchedulerPoolStatsObserver(**known)
    return ElasticPoolStatsObserver.around(upstream).get_pool_stats()


def lend(allocator, count):
    allocator.ledger.lent = allocator.take_own(count)


@pytest.mark.parametrize("page", [1, 16])
def test_a_request_on_grown_slots_is_counted(page):
    """4,500 tokens decoded at degree 2, and the log, /amoeba/state and the metrics said 0."""
    allocator = make(page=page)
    allocator.ledger.extra.take(4)
    stats = observe(allocator)
    assert (stats.full_num_used, stats.full_capacity) == (4 * page, (SIZE + GROWN) * page)
    assert stats.full_token_usage == pytest.approx(4 / (SIZE + GROWN))
    assert stats.get_decode_usage_msg_parts() == [f"#token: {4 * page}, token usage: 0.25"]


def test_upstream_s_sum_of_own_slots_still_holds():
    allocator = make()
    allocator.ledger.extra.take(3)
    allocator.take_own(2)
    stats = observe(allocator, evictable=1)
    assert stats.full_available_size == SIZE - 2
    assert stats.full_num_used == 2 + 3 - 1
    gauges = SimpleNamespace()
    stats.update_scheduler_stats(gauges)
    total = gauges.num_used_tokens + gauges.kv_available_tokens + gauges.kv_evictable_tokens
    assert total == capacity_tokens(allocator)


def test_lent_slots_are_the_anchor_s():
    lender, anchor = make(grown=0), make()
    lend(lender, 4)
    anchor.ledger.extra.lease(FIRST_LEASED + np.arange(4))
    assert (observe(lender).full_num_used, capacity_tokens(lender)) == (0, SIZE - 4)
    assert (observe(anchor).full_num_used, capacity_tokens(anchor)) == (0, SIZE + GROWN + 4)


@settings(max_examples=50)
@given(st.integers(0, SIZE), st.integers(0, SIZE), st.integers(0, GROWN), st.booleans())
def test_used_and_free_are_all_that_there_is(lent, own, extra, closed):
    allocator = make()
    lend(allocator, lent)
    own = 0 if allocator.take_own(own) is None else own
    allocator.ledger.extra.take(extra)
    if closed:
        allocator.ledger.extra.close(lambda ids: ids % 2 == 0)
    stats = observe(allocator)
    assert stats.full_num_used == own + extra
    assert 0 <= stats.full_token_usage <= 1
