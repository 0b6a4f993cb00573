"""Weights become KV rows and come back: bit for bit, or nothing has happened."""

import os

import pytest

from amoeba_sglang.control.layout.capacity import growth_pages
from amoeba_sglang.planes.memory import mapping
from amoeba_sglang.planes.memory.base import MemoryFault
from tests.elastic_workers import CHAIN, LAYERS, PAGES, ROW_BYTES, ROWS, change, make_group

GROWTH = {degree: growth_pages(PAGES, degree, LAYERS) for degree in CHAIN.degrees}
ALL_CHANGES = [(1, 2), (1, 4), (2, 4), (4, 2), (4, 1), (2, 1)]


@pytest.fixture
def workers():
    return make_group()


def at_degree(workers, degree):
    """The group after a merge from degree 1, its grown rows full of KV."""
    change(workers, degree)
    for worker in workers:
        worker.overwrite_grown_rows()


def test_every_degree_above_one_grows_the_pool(workers):
    assert 0 == GROWTH[1] < GROWTH[2] < GROWTH[4]
    exchange = workers[0].exchange
    assert exchange.grown_slots(1) == 0
    for degree in (2, 4):
        change(workers, degree)
        assert exchange.grown_slots(degree) == degree * (workers[0].ranges.rows - ROWS)
        assert exchange.grown_slots(degree) >= degree * (GROWTH[degree] * 4096 // ROW_BYTES)
        change(workers, 1)


@pytest.mark.parametrize(
    "path", [(1, 2, 1), (1, 2, 4, 1), (1, 4, 2, 1), (1, 4, 1), (1, 2, 4, 2, 4, 2, 1)], ids=str
)
def test_weights_and_kv_survive_every_walk_however_the_grown_rows_are_used(workers, path):
    charged = [worker.memory.physical_bytes() for worker in workers]
    for after in path[1:]:
        change(workers, after)
        for worker in workers:
            worker.assert_sound(after, GROWTH[after])
            worker.overwrite_grown_rows()
            worker.assert_sound(after, GROWTH[after])
        assert [worker.memory.physical_bytes() for worker in workers] == charged


@pytest.mark.parametrize(("before", "after"), ALL_CHANGES)
def test_layers_change_one_by_one_and_no_page_is_mapped_twice(workers, before, after):
    at_degree(workers, before)
    order = range(LAYERS) if after < before else reversed(range(LAYERS))
    for worker in workers:
        worker.exchange.shrink()
    for layer in order:
        for worker in workers:
            worker.exchange.move_layers(range(layer, layer + 1), after)
            mapped = list(worker.memory.mapped.values())
            assert len(mapped) == len(set(mapped))
            assert worker.weights_are_whole()
    for worker in workers:
        worker.exchange.grow(after)
        worker.assert_sound(after, GROWTH[after])


def test_a_block_changes_beside_workers_that_do_not(workers):
    change(workers[2:], 2)
    for worker in workers:
        degree = 2 if worker.index >= 2 else 1
        worker.assert_sound(degree, GROWTH[degree])
        worker.overwrite_grown_rows()
    change(workers, 4)
    for worker in workers:
        worker.assert_sound(4, GROWTH[4])


def test_a_split_copies_what_no_page_of_the_worker_holds_and_a_merge_nothing(workers):
    assert change(workers, 4) == 0
    for worker in workers:
        missing = PAGES.missing_ranges(PAGES.all_at(4), PAGES.all_at(2), worker.index)
        assert change([worker], 2) == sum(stop - start for start, stop, _ in missing) > 0


def test_a_split_reads_only_the_workers_of_its_own_block(workers):
    """The weights of all are equal, but another block may be changing its pages right now."""
    for worker, peer in (workers[2:], workers[:1:-1]):
        worker.meet({peer.index: peer.memory.export()})
    at_degree(workers[2:], 2)
    change(workers[2:], 1)
    for worker in workers[2:]:
        worker.assert_sound(1, 0)


@pytest.mark.parametrize(("before", "after"), ALL_CHANGES)
@pytest.mark.parametrize("index", range(CHAIN.finest))
def test_whichever_mapping_of_a_layer_fails_the_layer_stays_and_the_next_try_succeeds(
    workers, before, after, index
):
    at_degree(workers, before)
    victim = workers[index]
    victim.exchange.shrink()
    faults = 0
    while True:
        victim.memory.maps_until_fault = faults
        try:
            victim.exchange.move_layers(range(LAYERS), after)
        except MemoryFault:
            victim.assert_sound(before, 0)
            faults += 1
        else:
            break
    assert (faults > 0) == (after < before)
    victim.memory.maps_until_fault = None
    change([worker for worker in workers if worker is not victim], after)
    victim.exchange.grow(after)
    for worker in workers:
        worker.assert_sound(after, GROWTH[after])


@pytest.mark.parametrize("degree", (2, 4))
def test_whichever_mapping_of_the_growth_fails_the_pool_stays_shrunk(workers, degree):
    exchange, memory = workers[0].exchange, workers[0].memory
    exchange.move_layers(range(LAYERS), degree)
    for fault in range(2 * LAYERS):
        memory.maps_until_fault = fault
        with pytest.raises(MemoryFault):
            exchange.grow(degree)
        workers[0].assert_sound(degree, 0)
    memory.maps_until_fault = None
    exchange.grow(degree)
    workers[0].assert_sound(degree, GROWTH[degree])


def test_a_change_that_needs_too_many_mappings_is_refused_in_advance(workers, monkeypatch):
    exchange = workers[0].exchange
    assert exchange.refusal(1, 4) is None
    assert exchange.refusal(4, 1) is None
    monkeypatch.setattr(mapping, "mapping_limit", mapping.mappings_in_use)
    assert "vm.max_map_count" in exchange.refusal(1, 4)
    assert "vm.max_map_count" in exchange.refusal(4, 1)


def test_hundred_round_trips_leave_no_mapping_or_descriptor_behind(workers):
    def cycle():
        for after in (2, 4, 1):
            change(workers, after)
            for worker in workers:
                worker.overwrite_grown_rows()

    cycle()
    mappings, descriptors = mapping.mappings_in_use(), len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        cycle()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    # Less than one a cycle: the allocators of other libraries map memory at times.
    assert mapping.mappings_in_use() < mappings + 50
    for worker in workers:
        worker.assert_sound(1, 0)
