"""An instance whose requests hold tokens, for the tests of what an order does to them."""

import numpy as np
import torch

from amoeba_sglang.control.layout.locations import slots_of
from amoeba_sglang.control.shares.departure import Order
from amoeba_sglang.control.shares.refuge import kept_width
from tests.adapters.model.allocators import CHAIN, GROWN, SIZE, request
from tests.adapters.worker.instances import Instance


class Serving(Instance):
    """An instance whose requests hold tokens: `memory` by joint location."""

    def __init__(self, degree, first=0, page=1):
        super().__init__(degree, first, page)
        self.memory, self.before_step = {}, lambda: None
        self.next_token = 1

    def grow(self, req, tokens):
        """The anchor computes so many tokens of a request, if it has slots."""
        start = req.kv.kv_allocated_len
        last = self.row(req)[-1:].tolist() if start else [-1]
        slots = self.allocators[0].alloc_for_requests(self.trees[0], [req], [tokens], last)
        if slots is None:
            return False
        if req not in self.live[0]:
            req.kv.req_pool_idx, req.kv.holds_kv = len(self.live[0]), True
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

    def begin(self, after, vote_tokens=0, change_tokens=0):
        """PREPARE at the anchor."""
        width = kept_width(self.degree, after, self.first)
        order = Order(range(self.first, self.first + width), vote_tokens, change_tokens)
        self.ledgers[0].prepare(order, self.claims(0), self.pools[0])

    def prepare(self, after, headroom=0):
        """PREPARE at the anchor, then steps until it can vote: the verdict."""
        self.begin(after, 0, headroom)
        for _ in range(12):
            if self.ledgers[0].verdict is not None:
                return self.ledgers[0].verdict
            self.before_step()
            assert self.step(), "peers must not fall asleep before the vote"
            self.check()
        return None

    def commit(self, after):
        """The step in which the order that was voted for is carried out."""
        self.step(leaving=True)
        self.check()
        self.leave(after)

    def stays(self, location, after):
        """Whether a joint location is of a worker that stays with the anchor."""
        slot = location // self.page
        if slot >= self.degree * (SIZE + 1):
            return False
        home = CHAIN.index(self.degree, slot % self.degree)
        return home < kept_width(self.degree, after, self.first)

    def stand_down(self):
        self.ledgers[0].stand_down(self.pools[0])


CHANGES = [(2, 0, 1), (2, 0, 4), (2, 2, 4), (4, 0, 2), (4, 0, 1)]


def fill(world, place, slots):
    """Give so many own slots of a worker to somebody who keeps them."""
    page = world.page
    taken = slots_of(world.allocators[place].alloc(slots * page).numpy(), page)
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
        tokens = budget.available_chunk_tokens(world.page)
        assert tokens is not None and world.grow(req, min(left, tokens))
