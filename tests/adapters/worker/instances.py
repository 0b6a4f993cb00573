"""The workers of an instance without their schedulers: allocators, ledgers and records."""

from types import SimpleNamespace

import numpy as np
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool

from amoeba_sglang.adapters.model.kv_allocator import OwnPool
from amoeba_sglang.adapters.worker.requests import Requests, claims_of
from amoeba_sglang.control.shares.news import SlotNews
from amoeba_sglang.control.worker.step_record import StepRecord
from tests.adapters.model.allocators import CHAIN, GROWN, SIZE, Tree, make, request, share

PAGES = (1, 16)
"""Tokens of a slot."""
MOST = SIZE * 4 + GROWN


class Instance:
    """All workers of one instance; `first`: index of its anchor in the group."""

    def __init__(self, degree, first=0, page=1):
        self.degree, self.first, self.page = degree, first, page
        self.allocators = [make(grown=0, page=page) for _ in range(degree)]
        for place, allocator in enumerate(self.allocators):
            share(allocator, 0 if place else GROWN, degree, first + place)
        self.ledgers = [allocator.ledger for allocator in self.allocators]
        self.trees = [Tree(allocator) for allocator in self.allocators]
        self.pools = [OwnPool(*both) for both in zip(self.allocators, self.trees, strict=True)]
        self.rows = ReqToTokenPool(7, MOST * page, "cpu", enable_memory_saver=False)
        self.table = self.rows.req_to_token
        self.told = []
        self.waiting = [[] for _ in range(degree)]
        self.live = [[] for _ in range(degree)]
        self.ending = []

    def requests(self, place):
        """What its scheduler has."""
        running = SimpleNamespace(reqs=self.live[place])
        scheduler = SimpleNamespace(
            waiting_queue=self.waiting[place], running_batch=running, last_batch=None,
            result_queue=[], chunked_req=None, _pending_chunked_abort_req=None,
            grammar_manager=SimpleNamespace(grammar_queue=[]),
        )  # fmt: skip
        return Requests(scheduler)

    def claims(self, place):
        for req in self.live[place]:
            req.to_finish = "aborted" if req in self.ending else None
        allocator = self.allocators[place]
        return claims_of(self.requests(place), allocator, self.rows, self.told.append)

    def step(self, leaving=False):
        """One exchange of records; whether it had to take place."""
        claims = [self.claims(place) for place in range(self.degree)]
        parts = list(zip(self.ledgers, claims, self.pools, strict=True))
        news = [ledger.has_news(claim, pool) for ledger, claim, pool in parts]
        idle = [
            ledger.idles(any(c.long for c in (*claim.live, *claim.waiting)))
            for ledger, claim, _ in parts
        ]
        records = [
            StepRecord.decode(
                StepRecord(
                    1, 1, 0, 1, news[i],
                    slots=SlotNews() if idle[i] else ledger.offer(claim, pool, leaving),
                ).encode()
            )
            for i, (ledger, claim, pool) in enumerate(parts)
        ]  # fmt: skip
        for ledger, _, pool in parts:
            ledger.settle([record.slots for record in records], pool)
        self.copy(records[0].slots)
        return any(news)

    def copy(self, anchor):
        """What the workers do about tokens that move."""
        if len(anchor.moved_from):
            self.allocators[0].finish_moves()

    def leave(self, after):
        for ledger, pool in zip(self.ledgers, self.pools, strict=True):
            ledger.leave(after, pool)
            ledger.beyond = 0

    def check(self):
        """Every joint slot of the instance is in exactly one list of one worker."""
        held = []
        for place, (allocator, ledger) in enumerate(
            zip(self.allocators, self.ledgers, strict=True)
        ):
            extra, own = ledger.extra, allocator.get_all_free_pages().numpy()
            ids = np.concatenate(
                [own, extra.free, extra.withheld, ledger.kept, *map(np.asarray, self.used(place))]
            )
            held.append(CHAIN.joint_slots_of_ids(self.degree, self.first + place, ids, SIZE))
        slots = np.sort(np.concatenate(held))
        anchor = self.ledgers[0].extra
        everything = np.arange(self.degree, self.degree * (SIZE + 1) + anchor.grown)
        np.testing.assert_array_equal(slots, everything)
        assert sum(len(ledger.lent) for ledger in self.ledgers) == len(anchor.leased)

    def used(self, place):
        """Slots of the worker that hold tokens, as arrays."""
        return []


def long_request(tokens):
    return waiting(request(tokens, prompt=1))


def waiting(req):
    """A request that holds no KV yet."""
    req.kv.holds_kv = False
    return req
