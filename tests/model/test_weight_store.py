"""The elastic weights of a worker without the KV that their pages are lent to."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from amoeba_sglang.memory.base import MemoryFault
from tests.elastic_workers import CHAIN, MATRICES, PAGE, PAGES, make_group

STEPS = [(1, 2), (1, 4), (2, 4)]


@pytest.fixture
def workers():
    return make_group()


def mapped_pages(worker):
    """Pages of the store that are mapped, as numbers in it."""
    first = worker.store.first_page
    return sorted(page - first for page in worker.memory.mapped.values() if page >= first)


def test_a_matrix_is_one_contiguous_view_of_any_type(workers):
    store = workers[0].store
    view = store.tensor(1, (MATRICES[1] // 12, 3), torch.float32)
    assert view.is_contiguous()
    assert torch.equal(view.view(torch.uint8).view(-1), workers[0].weights[1])
    with pytest.raises(AssertionError):
        store.tensor(1, (MATRICES[0] // 4,), torch.float32)


@pytest.mark.parametrize(("low", "high"), STEPS)
def test_a_merge_keeps_exactly_the_pages_of_the_workers_shard(workers, low, high):
    for worker in workers:
        if low > 1:
            worker.store.free(low)
        worker.store.free(high)
        kept = PAGES.kept_pages(high, worker.index).tolist()
        assert mapped_pages(worker) == kept
        lent = [page - worker.store.first_page for page in worker.store.lent_pages(high)]
        assert sorted([*kept, *lent]) == list(range(PAGES.total_pages))
        assert lent == sorted(lent)
        assert worker.weights_are_whole()


@pytest.mark.parametrize(("low", "high"), STEPS)
def test_pages_come_home_with_the_bytes_that_they_had(workers, low, high):
    worker = workers[1]
    for following in (low, high) if low > 1 else (high,):
        worker.store.free(following)
    worker.store.take_back(low)
    assert mapped_pages(worker) == PAGES.kept_pages(low, worker.index).tolist()
    assert worker.weights_are_whole()


@pytest.mark.parametrize("index", range(CHAIN.finest))
def test_a_fault_on_the_way_home_leaves_the_store_as_it_was(workers, index):
    worker = workers[index]
    worker.store.free(4)
    faults = 0
    while worker.store.degree == 4:
        worker.memory.maps_until_fault = faults
        try:
            worker.store.take_back(1)
        except MemoryFault:
            assert worker.store.degree == 4
            assert mapped_pages(worker) == PAGES.kept_pages(4, index).tolist()
            assert worker.weights_are_whole()
            faults += 1
    assert faults > 0
    assert worker.weights_are_whole()


def test_degrees_change_in_the_direction_that_is_asked_for(workers):
    store = workers[0].store
    for wrong in (lambda: store.free(1), lambda: store.take_back(1), lambda: store.take_back(2)):
        with pytest.raises(AssertionError):
            wrong()
    store.free(4)
    with pytest.raises(AssertionError):
        store.free(2)


def test_walks_without_refills_keep_the_bytes_and_the_machines_memory(workers):
    worker = workers[3]
    charged = worker.memory.physical_bytes()
    assert charged >= PAGES.total_pages * PAGE
    for before, after in pairwise((1, 2, 4, 2, 1, 4, 1)):
        (worker.store.free if after > before else worker.store.take_back)(after)
        assert worker.weights_are_whole()
        assert worker.memory.physical_bytes() == charged
