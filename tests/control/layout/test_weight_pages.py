from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import ALIGNMENT, WeightPages
from tests.control.layout.chains import CHAINS

MIB = 1 << 20
QUARTERS = DegreeChain((1, 2, 4))
# gate_up and down of 64 layers in bf16.
QWEN_32B = ((2 * 27648 * 5120 * 2, 27648 * 5120 * 2),) * 64
# gate_up and down of 30 layers in fp32.
SMOLLM2 = ((2 * 1536 * 576 * 4, 1536 * 576 * 4),) * 30


@st.composite
def weight_pages(draw):
    chain = draw(st.sampled_from(CHAINS))
    sizes = st.lists(st.integers(1, 2000).map(lambda size: size * chain.finest), max_size=3)
    layers = draw(st.lists(sizes.map(tuple), min_size=1, max_size=4).filter(any))
    return WeightPages(
        chain,
        draw(st.sampled_from((64, 256, 1024))),
        tuple(layers),
    )


def owners(pages, degree):
    """Index in its block of the worker that holds each byte at `degree`; -1: no weights."""
    found = np.full(pages.total_pages * pages.page_size, -1)
    width = pages.chain.finest // degree
    for matrix, size in enumerate(pages.matrices):
        for finest in range(pages.chain.finest):
            start, _ = pages.shard_range(matrix, pages.chain.finest, finest)
            part = found[start : start + size // pages.chain.finest]
            assert (part == -1).all(), "shards overlap"
            part[:] = pages.chain.index(degree, finest // width)
    return found


def numbers(pages, first, stop):
    return range(first // pages.page_size, -(-stop // pages.page_size))


@settings(deadline=None)
@given(weight_pages())
def test_every_byte_of_every_matrix_has_its_place(pages):
    found = owners(pages, 1)
    assert (found == 0).sum() == pages.payload_bytes
    assert pages.waste_bytes == (found == -1).sum()
    for matrix in range(len(pages.matrices)):
        assert pages.shard_range(matrix, 1, 0)[0] % ALIGNMENT == 0


@settings(deadline=None)
@given(weight_pages())
def test_less_than_a_page_is_wasted_besides_alignment(pages):
    assert 0 <= pages.waste_bytes < pages.page_size + ALIGNMENT * len(pages.matrices)


@settings(deadline=None)
@given(weight_pages())
def test_a_page_is_kept_exactly_if_it_holds_a_byte_of_the_workers_shard(pages):
    for degree in pages.chain.degrees:
        found = owners(pages, degree).reshape(pages.total_pages, pages.page_size)
        for worker in range(degree):
            kept = np.flatnonzero((found == worker).any(axis=1))
            assert pages.kept_pages(degree, worker).tolist() == kept.tolist()


@settings(deadline=None)
@given(weight_pages(), st.data())
def test_kept_and_freed_pages_partition_all_pages(pages, data):
    degree = data.draw(st.sampled_from(pages.chain.degrees))
    worker = data.draw(st.integers(0, 2 * pages.chain.finest))
    kept, freed = pages.kept_pages(degree, worker), pages.freed_pages(degree, worker)
    assert kept.dtype == freed.dtype == np.int64
    assert (np.diff(kept) > 0).all() and (np.diff(freed) > 0).all()
    assert sorted([*kept, *freed]) == list(range(pages.total_pages))
    assert (freed.size == 0) or degree > 1


@settings(deadline=None)
@given(weight_pages(), st.data())
def test_pages_nest_along_the_chain(pages, data):
    worker = data.draw(st.integers(0, pages.chain.finest - 1))
    for low, high in pairwise(pages.chain.degrees):
        assert set(pages.kept_pages(high, worker)) <= set(pages.kept_pages(low, worker))


@settings(deadline=None)
@given(weight_pages(), st.data())
def test_the_pages_of_a_block_hold_everything_between_them(pages, data):
    degree = data.draw(st.sampled_from(pages.chain.degrees))
    kept = [pages.kept_pages(degree, worker) for worker in range(degree)]
    found = owners(pages, degree).reshape(pages.total_pages, pages.page_size)
    assert set(np.concatenate(kept)) == set(np.flatnonzero((found >= 0).any(axis=1)))


@settings(deadline=None)
@given(weight_pages(), st.data())
def test_shard_ranges_hold_the_finest_shards_of_the_worker(pages, data):
    degree = data.draw(st.sampled_from(pages.chain.degrees))
    worker = data.draw(st.integers(0, pages.chain.finest - 1))
    found = owners(pages, degree)
    for matrix, size in enumerate(pages.matrices):
        start, stop = pages.shard_range(matrix, degree, pages.chain.shard(degree, worker))
        held = found[start:stop]
        assert set(held) <= {worker % degree, -1}
        assert (held == worker % degree).sum() == size // degree
        assert stop - start == size // degree


@settings(deadline=None)
@given(weight_pages(), st.data())
def test_at_most_two_pages_a_matrix_are_not_freed(pages, data):
    degree = data.draw(st.sampled_from(pages.chain.degrees[1:]))
    worker = data.draw(st.integers(0, pages.chain.finest - 1))
    freed = pages.freed_pages(degree, worker).size * pages.page_size
    ideal = pages.payload_bytes * (degree - 1) / degree
    assert freed >= ideal - 2 * pages.page_size * len(pages.matrices)


@settings(deadline=None)
@given(weight_pages(), st.data())
def test_refills_are_disjoint_and_lie_on_kept_pages_of_their_source(pages, data):
    after, before = sorted(
        data.draw(
            st.lists(st.sampled_from(pages.chain.degrees), min_size=2, max_size=2, unique=True)
        )
    )
    worker = data.draw(st.integers(0, pages.chain.finest - 1))
    found, covered = owners(pages, before), np.zeros(pages.total_pages * pages.page_size, bool)
    # Layers go down from the first on, some at a time.
    count = len(pages.matrices)
    low, up = sorted(data.draw(st.tuples(st.integers(0, count), st.integers(0, count))))
    old = (after,) * low + (before,) * (count - low)
    new = (after,) * up + (before,) * (count - up)
    returned = pages.kept(new, worker) & ~pages.kept(old, worker)
    for start, stop, source in pages.missing_ranges(old, new, worker):
        assert start < stop and not covered[start:stop].any()
        covered[start:stop] = True
        assert (found[start:stop] == source).all() and source != worker % before
        assert set(numbers(pages, start, stop)) <= set(pages.kept_pages(before, source))
    weights_back = (found >= 0) & returned.repeat(pages.page_size)
    assert (covered == weights_back).all()


@settings(deadline=None)
@given(weight_pages(), st.data())
def test_every_walk_through_the_degrees_restores_the_weights(pages, data):
    """All workers change degree together, a few matrices at a time, the last ones first on a merge;
    what a merge frees is overwritten before the split."""
    chain, size = pages.chain, pages.page_size
    original = np.where(owners(pages, 1) >= 0, np.arange(pages.total_pages * size), -1)
    memory = [original.copy() for _ in range(chain.finest)]
    degree, count = 1, len(pages.matrices)
    step = data.draw(st.integers(1, count))
    for following in data.draw(st.lists(st.sampled_from(chain.degrees), max_size=6)):
        degrees = [degree] * count
        order = list(range(count))
        if following > degree:
            order.reverse()
        for first in range(0, count, step):
            before = tuple(degrees)
            for matrix in order[first : first + step]:
                degrees[matrix] = following
            for worker, own in enumerate(memory):
                kept = pages.kept(degrees, worker)
                own.reshape(-1, size)[~kept] = -7
                if following < degree:
                    base = worker // degree * degree
                    for start, stop, source in pages.missing_ranges(before, degrees, worker):
                        own[start:stop] = memory[base + source][start:stop]
                weights = (original >= 0) & kept.repeat(size)
                assert (own[weights] == original[weights]).all()
        degree = following


@pytest.mark.parametrize("degree, ideal_gib", [(2, 25.31), (4, 37.97)])
def test_tight_frees_nearly_all_of_a_32b_model(degree, ideal_gib):
    pages = WeightPages(QUARTERS, 2 * MIB, QWEN_32B)
    assert pages.waste_bytes == 0
    assert pages.payload_bytes * (degree - 1) / degree / 2**30 == pytest.approx(ideal_gib, abs=0.01)
    for worker in range(degree):
        freed = pages.freed_pages(degree, worker).size * pages.page_size
        assert freed >= 0.994 * pages.payload_bytes * (degree - 1) / degree


@pytest.mark.parametrize(
    "layers, page_size, percent",
    [(QWEN_32B, 2 * MIB, 0.74), (SMOLLM2, 2 * MIB, 58.0), (SMOLLM2, MIB // 16, 1.2)],
)
def test_padding_wastes_what_the_prototype_measured(layers, page_size, percent):
    pages = WeightPages(QUARTERS, page_size, layers)
    assert 100 * pages.padding_bytes / pages.payload_bytes == pytest.approx(percent, rel=0.05)
    assert pages.waste_bytes < page_size


def test_layers_may_have_other_numbers_of_matrices():
    pages = WeightPages(QUARTERS, MIB, ((4, 8), (), (12, 16, 20, 24)))
    assert pages.matrices == (4, 8, 12, 16, 20, 24)
    assert [pages.of_layer(layer) for layer in range(3)] == [range(2), range(2, 2), range(2, 6)]
