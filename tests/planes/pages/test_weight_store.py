"""The elastic weights of a worker without the KV that their pages are lent to."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from amoeba_sglang.planes.memory.base import MemoryFault
from tests.elastic_workers import CHAIN, MATRICES, PAGE, PAGES, make_group

STEPS = [(1, 2), (1, 4), (2, 4)]
ALL = range(len(MATRICES))


@pytest.fixture
def workers():
    return make_group()


def mapped_pages(worker):
    """Pages of the store that are mapped, as numbers in it."""
    first = worker.store.first_page
    return sorted(page - first for page in worker.memory.mapped.values() if page >= first)


def test_the_shards_of_a_matrix_follow_each_other_in_any_type(workers):
    store = workers[0].store
    view = store.shards(1, (MATRICES[1] // 4 // 6, 3), torch.int16)
    assert view.shape == (4, MATRICES[1] // 24, 3) and view.is_contiguous()
    assert torch.equal(view.view(torch.uint8).view(-1), workers[0].weights[1])
    with pytest.raises(AssertionError):
        store.shards(1, (MATRICES[0] // 4,), torch.int16)


@pytest.mark.parametrize(("low", "high"), STEPS)
def test_a_merge_keeps_exactly_the_pages_of_the_workers_shard(workers, low, high):
    for worker in workers:
        if low > 1:
            worker.store.free(ALL, low)
        worker.store.free(ALL, high)
        kept = PAGES.kept_pages(high, worker.index).tolist()
        assert mapped_pages(worker) == kept
        lent = [page - worker.store.first_page for page in worker.store.lent_pages(high)]
        assert sorted([*kept, *lent]) == list(range(PAGES.total_pages))
        assert lent == sorted(lent)
        assert worker.weights_are_whole()


@pytest.mark.parametrize(("low", "high"), STEPS)
@pytest.mark.parametrize("cut", range(len(MATRICES) + 1))
def test_matrices_at_two_degrees_keep_what_either_needs(workers, low, high, cut):
    worker = workers[1]
    if low > 1:
        worker.store.free(ALL, low)
    if cut < len(MATRICES):
        worker.store.free(range(cut, len(MATRICES)), high)
    assert worker.store.degrees == (low,) * cut + (high,) * (len(MATRICES) - cut)
    kept = np.flatnonzero(PAGES.kept(worker.store.degrees, worker.index)).tolist()
    assert mapped_pages(worker) == kept
    assert worker.weights_are_whole()


@pytest.mark.parametrize(("low", "high"), STEPS)
@pytest.mark.parametrize("count", (1, 2, 3, 4))
def test_pages_come_home_some_matrices_at_a_time_with_their_bytes(workers, low, high, count):
    """Whoever had the pages meanwhile has written to them."""
    for worker in workers:
        worker.store.free(ALL, high)
        for page in worker.store.lent_pages(high):
            there = worker.memory.reserve(PAGE)
            worker.memory.map(there, 0, [page])
            there.tensor(0, (PAGE,), torch.uint8).fill_(0xA5)
            worker.memory.unmap(there, 0, 1)
    for first in range(0, len(MATRICES), count):
        some = range(first, min(first + count, len(MATRICES)))
        for worker in workers:
            assert worker.store.take_back(some, low, worker.peer_weights) > 0
            assert worker.weights_are_whole()
    for worker in workers:
        assert mapped_pages(worker) == PAGES.kept_pages(low, worker.index).tolist()


@pytest.mark.parametrize("index", range(CHAIN.finest))
def test_a_fault_on_the_way_home_leaves_the_store_as_it_was(workers, index):
    worker = workers[index]
    worker.store.free(ALL, 4)
    faults = 0
    while worker.degree == 4:
        worker.memory.maps_until_fault = faults
        try:
            worker.store.take_back(ALL, 1, worker.peer_weights)
        except MemoryFault:
            assert worker.degree == 4
            assert mapped_pages(worker) == PAGES.kept_pages(4, index).tolist()
            assert worker.weights_are_whole()
            faults += 1
    assert faults > 0
    assert worker.weights_are_whole()


def test_degrees_change_in_the_direction_that_is_asked_for(workers):
    store, peers = workers[0].store, workers[0].peer_weights
    wrong = (
        lambda: store.free(ALL, 1),
        lambda: store.take_back(ALL, 1, peers),
        lambda: store.take_back(ALL, 2, peers),
    )
    for change in wrong:
        with pytest.raises(AssertionError):
            change()
    store.free(ALL, 4)
    with pytest.raises(AssertionError):
        store.free(ALL, 2)


def test_walks_keep_the_bytes_and_the_machines_memory(workers):
    worker = workers[3]
    charged = worker.memory.physical_bytes()
    assert charged >= PAGES.total_pages * PAGE
    for before, after in pairwise((1, 2, 4, 2, 1, 4, 1)):
        if after > before:
            worker.store.free(ALL, after)
        else:
            worker.store.take_back(ALL, after, worker.peer_weights)
        assert worker.weights_are_whole()
        assert worker.memory.physical_bytes() == charged
