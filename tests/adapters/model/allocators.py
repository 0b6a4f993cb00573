"""Small allocators of own and grown slots, with stand-ins for requests and the prefix cache."""

import itertools
from types import SimpleNamespace

import torch
from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator

from amoeba_sglang.adapters.model.kv_allocator import ElasticAllocator
from amoeba_sglang.control.layout.locations import slots_filled
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.shares.seat import Seat

SIZE = 10
"""Own slots."""
GROWN = 6
CHAIN = DegreeChain((1, 2, 4))


def make(grown=GROWN, need_sort=False, kind=ElasticAllocator, page=1):
    allocator = kind(SIZE * page, page, torch.float32, "cpu", None, need_sort)
    if kind is ElasticAllocator:
        share(allocator, grown)
    return allocator


def share(allocator, grown, degree=2, worker=0):
    """Begin a layout in which the worker has so many grown slots, or may lease."""
    allocator.ledger.share(Seat(CHAIN, degree, worker), grown)
    allocator.ledger.beyond = grown + (degree - 1) * SIZE


def regrow(allocator, grown):
    """Another layout with so many grown slots and no leases."""
    allocator.ledger.leave(1, None)
    share(allocator, grown)


def upstreams(page=1):
    return make(kind=PagedTokenToKVPoolAllocator, page=page)


_numbers = itertools.count()


class Request(SimpleNamespace):
    """Equal to itself only, as upstream's."""

    __eq__, __hash__ = object.__eq__, object.__hash__


def request(tokens, prompt=1):
    """`tokens` of prompt and output together."""
    return Request(
        rid=f"request {next(_numbers)}",
        origin_input_ids=[1] * prompt,
        output_ids=[],
        sampling_params=SimpleNamespace(max_new_tokens=tokens - prompt),
        kv=SimpleNamespace(
            kv_allocated_len=0,
            kv_committed_len=0,
            cache_protected_len=0,
            req_pool_idx=0,
            holds_kv=True,
        ),
        prefix_len=0,
        to_finish=None,
        finished=lambda: False,
    )


SHORT, LONG = request(SIZE - 2), request(SIZE - 1)


class Tree:
    """A prefix cache that owns `slots` and gives them up from the front."""

    def __init__(self, allocator, slots=()):
        self.allocator = allocator
        self.slots = torch.tensor(slots, dtype=torch.int64)

    def supports_prefix_sharing(self):
        return True

    def supports_mamba(self):
        return False

    def evictable_size(self):
        return len(self.slots) * self.allocator.page_size

    def evict_for_alloc(self, params):
        count = slots_filled(params.num_tokens, self.allocator.page_size)
        evicted, self.slots = self.slots[:count], self.slots[count:]
        self.allocator.free_page_ids(evicted)


def take(allocator, *wanted, tree=None, last=None):
    """Locations by request, for (request, tokens) pairs; None if memory is short.

    `last`: location of the last token of each, -1 without one.
    """
    reqs, tokens = zip(*wanted, strict=True)
    last = [-1] * len(reqs) if last is None else last
    found = allocator.alloc_for_requests(tree or Tree(allocator), list(reqs), list(tokens), last)
    return None if found is None else [part.tolist() for part in found.split(list(tokens))]
