"""Leases of own slots: every joint slot has one holder on all sides, after any history."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.model.step_record import StepRecord
from amoeba_sglang.worker.leases import Demand, Leases
from tests.model.allocators import Tree, make, request

SIZE, GROWN = 10, 6
PAGES = (1, 16)
"""Tokens of a slot."""
CHAIN = DegreeChain((1, 2, 4))


class Instance:
    """The leases of all workers of one instance, without their schedulers."""

    def __init__(self, degree, page=1):
        self.degree, self.page = degree, page
        self.allocators = [make(grown=GROWN if i == 0 else 0, page=page) for i in range(degree)]
        self.allocators[0].leasable = (degree - 1) * SIZE
        self.leases = [
            Leases(allocator, Tree(allocator), CHAIN, degree, index)
            for index, allocator in enumerate(self.allocators)
        ]
        self.waiting = [[] for _ in range(degree)]
        self.live = [[] for _ in range(degree)]

    def step(self):
        """One exchange of records."""
        demands = [
            Demand(waiting, lambda i=i: self.live[i]) for i, waiting in enumerate(self.waiting)
        ]
        missing = [
            lease.missing(demand) for lease, demand in zip(self.leases, demands, strict=True)
        ]
        news = [lease.has_news(count) for lease, count in zip(self.leases, missing, strict=True)]
        records = [
            StepRecord.decode(
                StepRecord(1, 1, 0, 1, has_work=news[i], **lease.offer(demand, missing[i])).encode()
            )
            for i, (lease, demand) in enumerate(zip(self.leases, demands, strict=True))
        ]
        for lease in self.leases:
            lease.settle(records)
        return any(news)

    def check(self):
        """Every joint slot of the instance is in exactly one list of one worker."""
        anchor = self.allocators[0]
        held = []
        for index, allocator in enumerate(self.allocators):
            ids = torch.cat([allocator.free_pages, allocator.free_extra]).numpy()
            held.append(CHAIN.joint_slots_of_ids(self.degree, index, ids, SIZE, anchor.grown))
        slots = np.sort(np.concatenate(held))
        everything = np.arange(self.degree, self.degree * (SIZE + 1) + GROWN)
        np.testing.assert_array_equal(slots, everything)
        lent = sum(len(allocator.lent) for allocator in self.allocators)
        assert lent == len(anchor.leased)


def long_request(tokens):
    return request(tokens, prompt=1)


def instance_with_leases(page=1):
    instance = Instance(2, page)
    instance.waiting[0] = [long_request((SIZE + GROWN + 4) * page)]
    for _ in range(3):
        instance.step()
    return instance


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("page", PAGES)
def test_the_anchor_gets_what_its_waiting_request_lacks_and_returns_it(degree, page):
    instance = Instance(degree, page)
    anchor = instance.allocators[0]
    wanted = SIZE + GROWN + 4
    instance.waiting[0] = [long_request(wanted * page - page // 2)]
    for _ in range(3):
        assert instance.step()
        instance.check()
    assert len(anchor.free_extra) + anchor.available_size() // page >= wanted + 2
    instance.waiting[0] = []
    assert instance.step(), "the instance must not fall asleep with slots away from home"
    instance.check()
    assert not len(anchor.leased)
    assert not instance.step()


def test_short_requests_ask_for_nothing():
    instance = Instance(2)
    instance.waiting[0] = [request(3, prompt=1)] * 5
    instance.waiting[1] = [long_request(100)]
    assert not instance.step()
    instance.step()
    instance.check()
    assert not len(instance.allocators[0].leased)


@pytest.mark.parametrize("page", PAGES)
def test_a_peer_keeps_what_its_running_requests_may_still_take(page):
    instance = Instance(2, page)
    running = request(7 * page - page // 2, prompt=1)
    running.kv.kv_allocated_len = 2 * page - page // 3
    instance.live[1] = [running]
    instance.waiting[0] = [long_request(100 * page)]
    for _ in range(4):
        instance.step()
    assert instance.allocators[1].available_size() == (7 - 2) * page


@pytest.mark.parametrize("page", PAGES)
def test_a_flush_gives_nothing_lent_away_a_second_time(page):
    instance = instance_with_leases(page)
    for allocator in instance.allocators:
        allocator.clear()
    instance.check()


def test_a_new_layout_ends_all_leases():
    instance = instance_with_leases()
    for allocator in instance.allocators:
        allocator.start_layout(0, 0)
        assert allocator.available_size() == SIZE
        assert not len(allocator.free_extra)


@settings(deadline=None)
@given(
    st.sampled_from([2, 4]),
    st.sampled_from(PAGES),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3), st.integers(0, 8)), max_size=12),
)
def test_no_slot_is_lost_or_doubled_in_any_history(degree, page, history):
    instance = Instance(degree, page)
    for wanted, worker, short in history:
        instance.waiting[0] = [long_request(wanted * page)] if wanted > SIZE else []
        peer = request(short * page - page // 2, prompt=1)
        peer.kv.kv_allocated_len = 0
        instance.live[worker % degree] = [peer] if short else []
        instance.step()
        instance.check()
    instance.waiting[0] = []
    for _ in range(3):
        instance.step()
    assert all(a.available_size() == SIZE * page for a in instance.allocators)
