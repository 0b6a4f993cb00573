"""Leases of own slots: every joint slot has one holder on all sides, after any history."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adapters.model.allocators import GROWN, SIZE, request
from tests.adapters.worker.instances import PAGES, Instance, long_request, waiting


def instance_with_leases(page=1):
    instance = Instance(2, page=page)
    instance.waiting[0] = [long_request((SIZE + GROWN + 4) * page)]
    for _ in range(3):
        instance.step()
    return instance


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("page", PAGES)
def test_the_anchor_gets_what_its_waiting_request_lacks_and_returns_it(degree, page):
    instance = Instance(degree, page=page)
    anchor = instance.allocators[0]
    wanted = SIZE + GROWN + 4
    instance.waiting[0] = [long_request(wanted * page - page // 2)]
    for _ in range(3):
        assert instance.step()
        instance.check()
    extra = instance.ledgers[0].extra
    assert extra.free_count + anchor.available_size() // page == wanted
    instance.waiting[0] = []
    assert instance.step(), "the instance must not fall asleep with slots away from home"
    instance.check()
    assert not len(extra.leased)
    assert not instance.step()


def test_short_requests_ask_for_nothing():
    instance = Instance(2)
    instance.waiting[0] = [waiting(request(3, prompt=1)) for _ in range(5)]
    assert not instance.step()
    instance.step()
    instance.check()
    assert not len(instance.ledgers[0].extra.leased)


@pytest.mark.parametrize("page", PAGES)
def test_a_peer_keeps_what_its_running_requests_may_still_take(page):
    instance = Instance(2, page=page)
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


def test_leaving_for_degree_1_ends_all_leases():
    instance = instance_with_leases()
    instance.leave(1)
    for allocator in instance.allocators:
        assert allocator.available_size() == SIZE
        assert not allocator.ledger.extra.count


@pytest.mark.parametrize(
    ("degree", "first", "after", "staying"),
    [(2, 0, 4, 2), (4, 0, 2, 2), (2, 2, 4, 1), (4, 0, 1, 1)],
)
def test_leases_outlast_a_change_from_workers_that_stay_with_the_anchor(
    degree, first, after, staying
):
    instance = Instance(degree, first)
    instance.waiting[0] = [long_request(SIZE * degree + GROWN - 3)]
    for _ in range(4):
        instance.step()
    before = [ledger.lent.tolist() for ledger in instance.ledgers]
    assert all(before[1:])
    instance.leave(after)
    lent = [ledger.lent.tolist() for ledger in instance.ledgers]
    assert lent[:staying] == before[:staying] and not any(lent[staying:])
    extra = instance.ledgers[0].extra
    assert sorted(extra.leased.tolist()) == sorted(extra.free.tolist())
    assert sum(map(len, lent)) == len(extra.leased)


@settings(deadline=None)
@given(
    st.sampled_from([2, 4]),
    st.sampled_from(PAGES),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3), st.integers(0, 8)), max_size=12),
)
def test_no_slot_is_lost_or_doubled_in_any_history(degree, page, history):
    instance = Instance(degree, page=page)
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
