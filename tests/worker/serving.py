"""An instance whose requests hold tokens, for the tests of what an order does to them."""

from __future__ import annotations

import numpy as np
import torch

from amoeba_sglang.layout.locations import slots_of
from amoeba_sglang.plan.relocation import kept_width
from amoeba_sglang.worker.relocation import Relocation
from tests.model.allocators import request
from tests.worker.instances import CHAIN, GROWN, SIZE, Instance

MOST = SIZE * 4 + GROWN


class Serving(Instance):
    """An instance whose requests hold tokens: `memory` by joint location."""

    def __init__(self, degree, first=0, page=1):
        super().__init__(degree, first, page)
        self.table = torch.zeros((8, MOST * page), dtype=torch.int32)
        self.memory, self.told, self.before_step = {}, [], lambda: None
        self.next_token = 1

    def grow(self, req, tokens):
        """The anchor computes so many tokens of a request, if it has slots."""
        start = req.kv.kv_allocated_len
        last = self.row(req)[-1:] if start else torch.tensor([-1])
        slots = self.allocators[0].alloc_for_requests(self.trees[0], [req], [tokens], last)
        if slots is None:
            return False
        if req not in self.live[0]:
            req.kv.req_pool_idx = len(self.live[0])
            self.live[0].append(req)
        self.table[req.kv.req_pool_idx, start : start + tokens] = slots.int()
        req.kv.kv_allocated_len += tokens
        for slot in self.joint(slots):
            self.memory[slot] = self.next_token
            self.next_token += 1
        return True

    def row(self, req):
        return self.table[req.kv.req_pool_idx, : req.kv.kv_allocated_len].long()

    def read(self, req):
        return [self.memory[slot] for slot in self.joint(self.row(req))]

    def slots(self, req):
        return torch.from_numpy(slots_of(self.row(req).numpy(), self.page))

    def joint(self, locations):
        """Joint locations of some of the anchor's."""
        slots, offsets = locations // self.page, locations % self.page
        return (self.joint_slots(slots) * self.page + offsets).tolist()

    def joint_slots(self, ids):
        slots = CHAIN.joint_slots_of_ids(self.degree, self.first, np.asarray(ids), SIZE)
        return torch.from_numpy(slots)

    def used(self, place):
        return [] if place else [self.slots(req) for req in self.live[0]]

    def copy(self, anchor):
        source, target = (
            self.joint_slots(ids).tolist() for ids in (anchor.moved_from, anchor.moved_to)
        )
        assert not set(source) & set(target)
        for old, new in zip(source, target, strict=True):
            for offset in range(self.page):
                token = self.memory.pop(old * self.page + offset, None)
                self.memory[new * self.page + offset] = token
        super().copy(anchor)

    def prepare(self, after, headroom=0):
        """PREPARE at the anchor, then steps until it can vote: the verdict."""
        width = kept_width(self.degree, after, self.first)
        relocation = Relocation(
            self.allocators[0],
            self.trees[0],
            CHAIN,
            range(self.first, self.first + width),
            self.table,
            self.told.append,
            self.live[0],
            0,
            headroom,
        )
        self.leases[0].relocation = relocation
        for _ in range(12):
            if relocation.verdict is not None:
                return relocation.verdict
            self.before_step()
            assert self.step(), "peers must not fall asleep before the vote"
            self.check()
        return None

    def leave(self, after):
        for lease, allocator in zip(self.leases, self.allocators, strict=True):
            lease.leave(after)
            allocator.start_layout(0, 0)

    def stays(self, location, after):
        """Whether a joint location is of a worker that stays with the anchor."""
        slot = location // self.page
        if slot >= self.degree * (SIZE + 1):
            return False
        home, _ = CHAIN.home(self.degree, slot)
        return home < kept_width(self.degree, after, self.first)


CHANGES = [(2, 0, 1), (2, 0, 4), (2, 2, 4), (4, 0, 2), (4, 0, 1)]


def fill(world, place, slots):
    """Give so many own slots of a worker to somebody who keeps them."""
    page = world.page
    taken = torch.from_numpy(slots_of(world.allocators[place].alloc(slots * page).numpy(), page))
    world.used = lambda at, used=world.used: [*used(at), *([taken] if at == place else [])]


def halfway(degree, first, page, done, peers=0):
    """An anchor that has `done` slots of a prompt that fills the grown ones, its own being taken,
    as are so many of each of its peers'."""
    world = Serving(degree, first, page)
    fill(world, 0, SIZE)
    for place in range(1, degree):
        fill(world, place, peers)
    req = request(SIZE * page, GROWN * page)
    assert world.grow(req, done * page)
    return world, req


def compute_chunk(world, req):
    """The next chunk of a prompt, of as many tokens as upstream's PrefillAdder would take."""
    left = len(req.origin_input_ids) - len(world.row(req))
    if left:
        budget = world.allocators[0].create_prefill_budget(world.trees[0])
        budget.consider(req)
        assert world.grow(req, min(left, budget.available_chunk_tokens(world.page)))


def stand_down(world):
    world.leases[0].relocation = None
    world.allocators[0].open()
