"""Whole transformations of a block of workers, with and without a fault at one of them.

The workers are threads with memories of their own, which import SGLang once for all.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from amoeba_sglang.kv.mover import PeerKVMover
from amoeba_sglang.kv.units import UnitBuffers
from amoeba_sglang.messages import TransformOrder
from amoeba_sglang.plan.capacity import growth_pages
from amoeba_sglang.worker.transformation import Transformation
from tests.elastic_workers import (
    CHAIN,
    LAYERS,
    PAGES,
    ROW_BYTES,
    ROWS,
    ElasticWorker,
    original_kv,
)

LIVE = np.arange(1, ROWS)
ONES, PAIRS, MIXED, FOUR = (1,) * 4, (2,) * 4, (2, 2, 1, 1), (4,) * 4


class Layer:
    """A layer of the model and of the pool: remembers at which degree it is."""

    def __init__(self):
        self.degree = self.viewed = 1

    def switch(self, degree):
        self.degree = degree


class ThreadGroup:
    """The part of a TransportGroup that a transformation uses, for workers that are threads."""

    def __init__(self, rank, barrier, words):
        self.rank, self.size = rank, barrier.parties
        self.barrier, self._words = barrier.wait, words

    def exchange(self, record):
        self._words[self.rank] = record
        self.barrier()
        received = [words.copy() for words in self._words]
        self.barrier()
        return received


class Member(ElasticWorker):
    """A worker with all that a transformation needs; it knows its peers by their handles."""

    def join(self, group, handles):
        self.group = group
        self.meet({index: handle for index, handle in enumerate(handles) if index != self.index})
        own = UnitBuffers(self.blocks, CHAIN.finest)
        pools = [
            None if index == self.index else self.pool_of(index, handle)
            for index, handle in enumerate(handles)
        ]
        self.mover = PeerKVMover(own, pools, group, 1 << 14)
        self.layers = [Layer() for _ in range(LAYERS)]

    def pool_of(self, index, handle):
        shape = (ROWS, ROW_BYTES)
        layers = self.ranges.peer_layers(self.peers[index], handle, shape, torch.uint8)
        return UnitBuffers(layers, CHAIN.finest)

    def view_layer(self, number, degree):
        self.layers[number].viewed = degree

    def perform(self, epoch, before, after):
        order = TransformOrder(
            phase="commit",
            operation_id="op",
            epoch=epoch,
            ranks=list(range(len(before))),
            before=list(before),
            after=list(after),
        )
        return Transformation(
            order, CHAIN, self.index, self.layers, self, self.exchange, self.group, self.mover
        ).perform(LIVE)

    def check(self, degrees):
        """What is not as it must be when the block is at `degrees`."""
        degree, wrong = degrees[self.index], []
        kv = torch.stack([torch.stack(block) for block in self.blocks])
        units = kv.view(LAYERS, 2, ROWS, CHAIN.finest, -1)
        for home, home_degree in enumerate(degrees):
            theirs = original_kv(home).view_as(units)
            for unit in range(CHAIN.finest):
                holder, place = CHAIN.place(home_degree, home, unit)
                if holder == self.index and not torch.equal(
                    units[:, :, 1:, place], theirs[:, :, 1:, unit]
                ):
                    wrong.append(f"unit {unit} of home {home}")
        if not self.weights_are_whole():
            wrong.append("weights")
        if self.store.degree != degree:
            wrong.append(f"the store is at degree {self.store.degree}")
        if self.ranges.grown_pages != growth_pages(PAGES, degree, LAYERS):
            wrong.append(f"{self.ranges.grown_pages} grown pages")
        if any((layer.degree, layer.viewed) != (degree, degree) for layer in self.layers):
            wrong.append("degrees of the layers")
        return wrong


def walk(steps):
    """By worker and step (error, bytes of KV and of weights received, what is wrong after it)."""
    members = [Member(rank) for rank in range(CHAIN.finest)]
    handles = [member.memory.export() for member in members]
    barrier, words = threading.Barrier(CHAIN.finest, timeout=20), [None] * CHAIN.finest
    for member in members:
        member.join(ThreadGroup(member.index, barrier, words), handles)

    def work(member):
        found = []
        for epoch, (before, after, failing) in enumerate(steps, 1):
            if member.index == failing:
                member.memory.maps_until_fault = 1
            report = member.perform(epoch, before, after)
            wrong = member.check(before if report.error else after)
            found.append((report.error, report.kv_bytes, report.weight_bytes, wrong))
            # Long requests may use the grown rows between transformations.
            member.overwrite_grown_rows()
            barrier.wait()
        return found

    with ThreadPoolExecutor(CHAIN.finest) as executor:
        return list(executor.map(work, members))


PATHS = {
    "all at once": [(ONES, FOUR), (FOUR, ONES)],
    "step by step": [(ONES, MIXED), (MIXED, FOUR), (FOUR, PAIRS), (PAIRS, ONES)],
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_kv_and_weights_go_where_the_layout_says_and_come_back(path):
    results = walk([(*step, None) for step in path])
    for by_step in results:
        assert [(error, wrong) for error, _, _, wrong in by_step] == [("", [])] * len(path)
        copied = [weights > 0 for _, _, weights, _ in by_step]
        assert copied == [max(after) < max(before) for before, after in path]
    for by_worker in zip(*results, strict=True):
        assert any(kv for _, kv, _, _ in by_worker)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_fault_at_one_worker_undoes_the_whole_block_and_the_next_try_succeeds(path):
    steps, failing = [], []
    for number, (before, after) in enumerate(path):
        # A worker whose degree stays maps nothing, so it cannot fail.
        victim = next(r for r in (3 - number, 0, 3) if before[r] != after[r])
        steps += [(before, after, victim), (before, after, None)]
        failing += [victim, None]
    results = walk(steps)
    for rank, by_step in enumerate(results):
        for victim, (error, _, _, wrong) in zip(failing, by_step, strict=True):
            assert wrong == []
            if victim is None:
                assert error == ""
            elif rank == victim:
                assert error == "no more mappings"
            else:
                assert error == f"ranks [{victim}] ran into a memory fault"


def test_a_block_that_mixes_up_two_orders_stops_before_it_moves_anything():
    order = TransformOrder(
        phase="commit", operation_id="op", epoch=3, ranks=[0, 1], before=[1, 1], after=[2, 2]
    )
    block = SimpleNamespace(exchange=lambda words: [words, words + 1])
    with pytest.raises(AssertionError, match=r"\[0, 1\] entered with epochs \[3, 4\]"):
        Transformation(order, CHAIN, 0, [], None, None, block, None).perform(LIVE)
