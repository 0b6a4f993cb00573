"""Ranks that are threads of this process: every operation against plain arithmetic."""

import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.planes.transport import TransportError
from amoeba_sglang.planes.transport.host import HostGroup, _data_offset
from amoeba_sglang.planes.transport.patience import Patience

CAPACITY = 4096
SIZES = st.sampled_from([2, 3])
# Below and above what goes through at once, in float32.
LENGTH = st.sampled_from([0, 1, 7, CAPACITY // 4, CAPACITY // 4 + 1, 3 * CAPACITY // 4 + 5])


def together(size, work):
    """What every rank's `work(group)` returns, by rank."""
    memory = mmap.mmap(-1, _data_offset(size) + 2 * size * CAPACITY)
    segment = SimpleNamespace(memory=memory, pids=[os.getpid()] * size)
    patience = Patience(20.0, 8.0, None)
    ranks = range(size)
    groups = [HostGroup(segment, rank, ranks, CAPACITY, patience) for rank in ranks]
    try:
        with ThreadPoolExecutor(size) as threads:
            return list(threads.map(work, groups))
    finally:
        for group in groups:
            group.close()


def values(rank, length, seed=0):
    generator = torch.Generator().manual_seed(100 * seed + rank)
    return torch.randn(length, generator=generator)


@settings(max_examples=15, deadline=None)
@given(SIZES, st.lists(LENGTH, min_size=1, max_size=4))
def test_sums_are_equal_to_the_bit_everywhere(size, lengths):
    def work(group):
        inputs = [values(group.rank, length, seed) for seed, length in enumerate(lengths)]
        results = [group.all_reduce(x) for x in inputs]
        assert all(a is b for a, b in zip(inputs, results, strict=True))
        return results

    found = together(size, work)
    for seed, length in enumerate(lengths):
        expected = sum(values(rank, length, seed).double() for rank in range(size))
        torch.testing.assert_close(found[0][seed].double(), expected, rtol=0, atol=1e-5)
        assert all(torch.equal(results[seed], found[0][seed]) for results in found)


def test_a_sum_of_a_view_lands_in_the_view():
    def work(group):
        whole = values(group.rank, 2 * CAPACITY).view(-1, 2)
        group.all_reduce(whole[:, 1])
        return whole

    found = together(3, work)
    mine = [values(rank, 2 * CAPACITY).view(-1, 2) for rank in range(3)]
    for rank, whole in enumerate(found):
        assert torch.equal(whole[:, 0], mine[rank][:, 0])
        torch.testing.assert_close(whole[:, 1], sum(one[:, 1] for one in mine))


@settings(max_examples=10, deadline=None)
@given(SIZES, LENGTH, st.data())
def test_gathers_are_in_the_order_of_ranks(size, length, data):
    rows = [data.draw(st.integers(0, 1 + length // 3)) for _ in range(size)]

    def work(group):
        rank = group.rank
        return (
            group.all_gather(values(rank, length).view(1, -1), dim=1),
            group.all_gather_rows(values(rank, 3 * rows[rank]).view(-1, 3), rows),
        )

    whole = torch.cat([values(rank, length) for rank in range(size)]).view(1, -1)
    uneven = torch.cat([values(rank, 3 * count) for rank, count in enumerate(rows)]).view(-1, 3)
    for gathered, gathered_rows in together(size, work):
        assert torch.equal(gathered, whole) and torch.equal(gathered_rows, uneven)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.sampled_from([0, 3, CAPACITY // 8 - 1, CAPACITY // 8, 1500]), min_size=2, max_size=3
    )
)
def test_records_of_any_length_are_private_copies(lengths):
    def work(group):
        mine = np.arange(lengths[group.rank]) + 10_000 * group.rank
        first = group.exchange(mine)
        group.barrier()
        for record in group.exchange(mine):
            record[:] = -1
        return first

    for received in together(len(lengths), work):
        for rank, record in enumerate(received):
            assert record.tolist() == (np.arange(lengths[rank]) + 10_000 * rank).tolist()


def test_ranks_that_come_for_different_things_are_told():
    def work(group):
        try:
            if group.rank:
                group.barrier()
            else:
                group.exchange(np.zeros(1, dtype=np.int64))
        except TransportError as error:
            return str(error)

    texts = together(2, work)
    assert all("ranks disagree at meeting 1" in text for text in texts)


def test_who_has_left_is_named_with_the_phase():
    def work(group):
        group.phase = "the joint steps"
        if group.rank:
            group.close()
            return ""
        with pytest.raises(TransportError, match=r"\[1\] left the group during .*the joint steps"):
            group.barrier()
        return group.phase

    assert together(2, work)[0] == "the joint steps"
