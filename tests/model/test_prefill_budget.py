"""What admission counts on: own slots for all, grown ones for long requests."""

from __future__ import annotations

from tests.model.allocators import GROWN, LONG, SHORT, SIZE, Tree, make


def budget_of(allocator, running=()):
    budget = allocator.create_prefill_budget(Tree(allocator))
    for req, tokens in running:
        budget.reserve_running(req, tokens)
    return budget


def admits(budget, req, extend, output):
    """Upstream's sequence for one request of the waiting queue (PrefillAdder.add_one_req)."""
    budget.consider(req)
    fits, _ = budget.check_prefill(
        extend_input_len=extend,
        total_tokens=extend + output + 1,
        max_new_tokens=output,
        input_tokens=extend,
        swa_host_hit_length=0,
        chunk_limit=None,
    )
    if fits:
        budget.reserve(extend, output)
    return fits


def test_the_longest_short_request_is_admitted_and_its_next_size_needs_grown_slots():
    prompt, output = 3, make().request_tokens - 3
    assert admits(budget_of(make()), SHORT, prompt, output)
    assert not admits(budget_of(make(grown=0)), LONG, prompt, output + 1)
    assert admits(budget_of(make()), LONG, prompt, output + 1)


def test_a_short_request_is_never_admitted_on_account_of_grown_slots():
    allocator = make()
    allocator.alloc(4)
    assert not admits(budget_of(allocator), SHORT, 4, 1)
    assert admits(budget_of(allocator), LONG, 4, 1)
    assert admits(budget_of(allocator), SHORT, 3, 1)


def test_running_long_requests_do_not_eat_the_own_budget_while_grown_slots_last():
    assert admits(budget_of(make(), [(LONG, GROWN)]), SHORT, 4, 4)
    assert not admits(budget_of(make(), [(LONG, GROWN + 1)]), SHORT, 4, 4)
    assert not admits(budget_of(make(), [(SHORT, 1)]), SHORT, 4, 4)
    # What two running ones keep back together is more than the grown slots.
    assert not admits(budget_of(make(), [(LONG, GROWN), (LONG, 1)]), SHORT, 4, 4)


def test_admitted_long_requests_take_grown_slots_out_of_the_budget_first():
    budget = budget_of(make())
    assert admits(budget, LONG, 2, GROWN - 3)
    assert admits(budget, SHORT, 4, 3)
    assert not admits(budget, LONG, 1, 0)
    budget = budget_of(make())
    assert admits(budget, LONG, 4, GROWN - 3)
    assert not admits(budget, SHORT, 4, 4)


def test_the_next_chunk_of_a_long_prompt_counts_on_grown_slots():
    allocator = make()
    allocator.alloc(SIZE)
    budget = budget_of(allocator)
    budget.consider(LONG)
    assert budget.has_capacity()
    assert budget.available_chunk_tokens(99) == GROWN
    budget.reserve(3, 0, is_chunked_continuation=True)
    assert budget.remaining_current == budget.remaining_total == GROWN - 4
    budget.consider(SHORT)
    assert not budget.has_capacity()
