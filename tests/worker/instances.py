"""The workers of an instance without their schedulers: allocators, leases and records."""

from __future__ import annotations

import numpy as np
import torch

from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.model.step_record import StepRecord
from amoeba_sglang.worker.demand import Demand
from amoeba_sglang.worker.leases import Leases
from tests.model.allocators import Tree, make, request

SIZE, GROWN = 10, 6
PAGES = (1, 16)
"""Tokens of a slot."""
CHAIN = DegreeChain((1, 2, 4))


class Instance:
    """The leases of all workers of one instance; `first`: index of its anchor in the group."""

    def __init__(self, degree, first=0, page=1):
        self.degree, self.first, self.page = degree, first, page
        self.allocators = [make(grown=GROWN if i == 0 else 0, page=page) for i in range(degree)]
        self.allocators[0].leasable = (degree - 1) * SIZE
        self.trees = [Tree(allocator) for allocator in self.allocators]
        self.leases = [
            Leases(allocator, tree, CHAIN, degree, first + place)
            for place, (allocator, tree) in enumerate(zip(self.allocators, self.trees, strict=True))
        ]
        self.waiting = [[] for _ in range(degree)]
        self.live = [[] for _ in range(degree)]
        self.ending = []

    def step(self):
        """One exchange of records; whether it had to take place."""
        demands = [
            Demand(waiting, lambda i=i: self.live[i], lambda req: req in self.ending)
            for i, waiting in enumerate(self.waiting)
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
        self.copy(records[0])
        return any(news)

    def copy(self, anchor):
        """What the workers do about tokens that move."""
        if len(anchor.moved_from):
            self.allocators[0].finish_moves()

    def check(self):
        """Every joint slot of the instance is in exactly one list of one worker."""
        anchor, held = self.allocators[0], []
        for place, allocator in enumerate(self.allocators):
            ids = torch.cat(
                [allocator.free_pages, allocator.free_extra, allocator.withheld, *self.used(place)]
            ).numpy()
            held.append(CHAIN.joint_slots_of_ids(self.degree, self.first + place, ids, SIZE))
        slots = np.sort(np.concatenate(held))
        everything = np.arange(self.degree, self.degree * (SIZE + 1) + anchor.grown)
        np.testing.assert_array_equal(slots, everything)
        lent = sum(len(allocator.lent) for allocator in self.allocators)
        assert lent == len(anchor.leased)

    def used(self, place):
        """Slots of the worker that hold tokens, as tensors."""
        return []


def long_request(tokens):
    return request(tokens, prompt=1)
