"""What admission counts on: own slots for all, grown ones for long requests."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st
from sglang.srt.managers import schedule_policy

from tests.model.allocators import GROWN, LONG, SHORT, SIZE, Tree, make, request

# Where the last token of a request without any lies.
FIRST = torch.tensor([-1])


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


def test_a_preempted_request_gives_back_what_it_had_reserved_of_each_class():
    """Preemption took a long request's share of grown slots out of the own ones."""
    allocator = make()
    allocator.alloc(SIZE - 2)
    preempted = request(SIZE + GROWN)
    budget = budget_of(allocator, [(preempted, GROWN + 1), (LONG, 0)])
    before = budget_of(allocator)
    budget.release_running(preempted, GROWN + 1)
    for req in (SHORT, LONG):
        budget.consider(req)
        before.consider(req)
        assert budget.remaining_total == before.remaining_total
        assert budget.remaining_current == before.remaining_current


def test_upstreams_preemption_tells_the_budget_which_request_it_preempts(monkeypatch):
    """It used to change one offset by itself, as if all slots were own ones."""
    schedule = SimpleNamespace(schedule_low_priority_values_first=False)
    monkeypatch.setattr(schedule_policy, "get_schedule", lambda: schedule)
    allocator = make()
    running, urgent = request(SIZE + GROWN), request(SIZE + GROWN, prompt=4)
    held = allocator.alloc_for_requests(Tree(allocator), [running], [2], FIRST)
    batch = SimpleNamespace(
        reqs=[running],
        release_req=lambda index, left: allocator.free(held),
        filter_batch=lambda keep_indices: None,
    )
    for req, priority in ((running, 0), (urgent, 9)):
        req.priority = priority
        req.time_stats = SimpleNamespace(wait_queue_entry_time=0.0)
    urgent.full_untruncated_fill_ids, urgent.prefix_len = urgent.origin_input_ids, 0
    budget = budget_of(allocator, [(running, 40)])
    adder = SimpleNamespace(
        running_batch=batch,
        preempt_list=[],
        memory_budget=budget,
        priority_scheduling_preemption_threshold=0,
        rem_total_tokens=-1,
        _request_slot_reserve_for_req=lambda req: 0,
        _get_running_request_total_token_offset=lambda req: 40,
    )
    assert schedule_policy.PrefillAdder.preempt_to_schedule(adder, urgent)
    assert budget.remaining_total == SIZE + GROWN
    budget.consider(SHORT)
    assert budget.remaining_total == SIZE


def test_the_grown_slots_of_a_preempted_request_can_be_had_at_once():
    allocator = make()
    preempted = request(SIZE + GROWN)
    held = allocator.alloc_for_requests(Tree(allocator), [preempted], [GROWN], FIRST)
    budget = budget_of(allocator, [(preempted, 4)])
    assert not admits(budget, LONG, GROWN, SIZE - 2)
    budget.release_running(preempted, 4)
    allocator.free(held)
    assert admits(budget, LONG, GROWN, SIZE - 2)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=5), st.randoms(), st.booleans()
)
def test_reserving_and_releasing_in_any_order_ends_where_it_began(running, chance, long):
    allocator = make()
    reserved = [(request(SIZE + GROWN if is_long else 2), tokens) for is_long, tokens in running]
    budget = budget_of(allocator, reserved)
    chance.shuffle(reserved)
    for req, tokens in reserved:
        budget.release_running(req, tokens)
    budget.consider(LONG if long else SHORT)
    assert budget.remaining_total == SIZE + (GROWN if long else 0)
