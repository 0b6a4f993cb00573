"""Own and grown slots: who gets which."""

import pytest
import torch

from tests.adapters.model.allocators import (
    GROWN,
    LONG,
    SHORT,
    SIZE,
    Tree,
    make,
    regrow,
    request,
    share,
    take,
)  # fmt: skip


def test_a_request_is_long_if_upstream_could_not_admit_it_to_the_own_slots():
    allocator = make()
    assert not allocator.is_long(SHORT)
    assert allocator.is_long(LONG)
    assert allocator.is_long(request(SIZE - 1, prompt=SIZE - 1))


def test_short_requests_never_get_a_grown_slot():
    allocator = make()
    (slots,) = take(allocator, (SHORT, SIZE))
    assert sorted(slots) == list(range(1, SIZE + 1))
    assert take(allocator, (SHORT, 1)) is None
    assert allocator.ledger.extra.in_use == 0


def test_a_long_request_takes_grown_slots_first_and_then_own_ones():
    allocator = make()
    (slots,) = take(allocator, (LONG, GROWN - 1))
    assert slots == list(range(SIZE + 1, SIZE + GROWN))
    (slots,) = take(allocator, (LONG, 3))
    assert slots == [SIZE + GROWN, 1, 2]
    assert allocator.available_size() == SIZE - 2


def test_every_request_of_a_batch_gets_slots_of_its_class_in_its_place():
    allocator = make()
    first, second, third, fourth = take(allocator, (SHORT, 2), (LONG, 4), (SHORT, 1), (LONG, 4))
    assert first == [1, 2]
    assert second == [11, 12, 13, 14]
    assert third == [3]
    assert fourth == [15, 16, 4, 5]


def test_an_allocation_that_does_not_fit_takes_nothing():
    allocator = make()
    assert take(allocator, (LONG, 5), (SHORT, SIZE + 1)) is None
    assert take(allocator, (LONG, SIZE + GROWN + 1)) is None
    assert allocator.available_size() == SIZE
    assert allocator.ledger.extra.in_use == 0
    (slots,) = take(allocator, (LONG, SIZE + GROWN))
    assert sorted(slots) == list(range(1, SIZE + GROWN + 1))


def test_cached_prefixes_are_evicted_for_own_slots_only():
    allocator = make()
    cached = allocator.alloc(SIZE).tolist()
    tree = Tree(allocator, cached)
    take(allocator, (LONG, GROWN), tree=tree)
    assert tree.evictable_size() == SIZE
    take(allocator, (LONG, 2), (SHORT, 1), tree=tree)
    assert tree.evictable_size() == SIZE - 3


@pytest.mark.parametrize("need_sort", [False, True])
def test_freed_slots_return_to_their_class(need_sort):
    allocator = make(need_sort=need_sort)
    (slots,) = take(allocator, (LONG, GROWN + 4))
    allocator.free(torch.tensor(slots[3:8]))
    assert allocator.ledger.extra.in_use == 3
    assert allocator.available_size() == SIZE - 2
    allocator.free_group_begin()
    allocator.free(torch.tensor(slots[:3]))
    allocator.free(torch.tensor(slots[8:]))
    assert allocator.ledger.extra.in_use == 3
    allocator.free_group_end()
    assert allocator.ledger.extra.in_use == 0
    assert allocator.available_size() == SIZE
    assert sorted(allocator.ledger.extra.free.tolist()) == list(range(SIZE + 1, SIZE + GROWN + 1))


def test_a_flush_restores_both_classes():
    allocator = make()
    take(allocator, (LONG, GROWN + 2), (SHORT, 3))
    allocator.clear()
    assert allocator.ledger.extra.in_use == 0
    (slots,) = take(allocator, (LONG, SIZE + GROWN))
    assert sorted(slots) == list(range(1, SIZE + GROWN + 1))


def test_grown_slots_in_use_cannot_be_taken_away():
    allocator = make()
    (slots,) = take(allocator, (LONG, 1))
    for count in (0, 2 * GROWN):
        with pytest.raises(AssertionError, match="1 grown slots are in use"):
            share(allocator, count)
    allocator.free(torch.tensor(slots))
    share(allocator, 2)
    assert allocator.ledger.extra.free.tolist() == [SIZE + 1, SIZE + 2]
    regrow(allocator, 0)
    assert take(allocator, (LONG, SIZE + 1)) is None


def test_a_row_goes_on_in_its_last_slot():
    allocator = make(page=4)
    short, long = request(4 * (SIZE - 2), prompt=9), request(4 * (SIZE - 2) + 1, prompt=9)
    assert not allocator.is_long(short) and allocator.is_long(long)
    first, second = take(allocator, (short, 6), (long, 9))
    assert first == [*range(4, 10)]
    assert second == [*range(44, 53)]
    first, second = take(allocator, (short, 1), (long, 5), last=[first[-1], second[-1]])
    assert first == [10]
    assert second == [53, 54, 55, 56, 57]
    assert allocator.available_size() == 4 * (SIZE - 2)
    assert allocator.ledger.extra.in_use == 4
    (more,) = take(allocator, (short, 3), last=[10])
    assert more == [11, 12, 13]


def test_decoding_long_requests_need_own_slots_only_after_the_grown_ones():
    allocator = make(grown=2)
    allocator.alloc(SIZE - 1)
    tree = Tree(allocator)

    def fits(*requests):
        return allocator.check_decode_capacity(
            num_tokens=len(requests), tree_cache=tree, requests=requests
        )

    assert fits(LONG, LONG, SHORT)
    assert not fits(LONG, SHORT, SHORT)
    assert not fits(LONG, LONG, LONG, SHORT)
    assert fits(LONG, LONG, LONG)
    assert not allocator.check_decode_capacity(num_tokens=2, tree_cache=tree)


def test_only_decoding_requests_whose_last_slot_is_full_need_another():
    allocator = make(grown=1, page=4)
    allocator.alloc(4 * SIZE)
    within, at_end = (request(4 * SIZE) for _ in range(2))
    within.kv.kv_committed_len = 6
    tree = Tree(allocator)
    for requests, tokens in (([within, at_end, within], 4), ([at_end, at_end], 8)):
        fits = allocator.check_decode_capacity(
            num_tokens=tokens, tree_cache=tree, requests=requests
        )
        assert fits == (tokens == 4)


def test_an_output_may_be_as_long_as_own_grown_and_leased_slots_allow():
    clip = {"sliding_window_size": None, "chunk_size": None, "token_capacity": SIZE}
    peers = SIZE
    assert make().max_new_tokens_for_memory(3, 99, **clip) == SIZE + GROWN + peers - 3 - 2
    clip["token_capacity"] = 4 * SIZE
    tokens = 4 * (SIZE + GROWN + peers)
    assert make(page=4).max_new_tokens_for_memory(3, 999, **clip) == tokens - 4 - 5
    alone = make()
    alone.ledger.leave(1, None)
    alone.ledger.beyond = 0
    clip["token_capacity"] = SIZE
    assert alone.max_new_tokens_for_memory(3, 99, **clip) == SIZE - 3 - 2
