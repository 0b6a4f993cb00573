"""What admission counts on: own slots for all, grown ones for long requests."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang.srt.managers import schedule_policy

from tests.adapters.model.allocators import GROWN, LONG, SHORT, SIZE, Tree, make, request

# Where the last token of a request without any lies.
FIRST = [-1]


def budget_of(allocator, running=()):
    """With (request, upstream's estimate of what it takes still) for each that runs."""
    budget = allocator.create_prefill_budget(Tree(allocator))
    for req, tokens in running:
        budget.reserve_running(req, tokens)
    return budget


def admits(budget, req, clip=4096):
    """Upstream's sequence for one request of the waiting queue (PrefillAdder.add_one_req)."""
    extend = len(req.origin_input_ids)
    output = min(req.sampling_params.max_new_tokens, clip)
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


def short(tokens, prompt=1):
    return request(tokens, prompt)


def test_the_longest_short_request_is_admitted_and_its_next_size_needs_grown_slots():
    assert admits(budget_of(make()), SHORT)
    assert not admits(budget_of(make(grown=0)), request(SIZE + 1))
    assert admits(budget_of(make()), request(SIZE + 1))


def test_a_short_request_is_never_admitted_on_account_of_grown_slots():
    allocator = make()
    allocator.alloc(4)
    assert not admits(budget_of(allocator), short(5, prompt=4))
    assert admits(budget_of(allocator), short(4, prompt=3))
    assert admits(budget_of(allocator), request(SIZE - 4 + GROWN))


def test_a_long_request_is_admitted_with_all_that_it_may_ever_take():
    """Upstream counts 4,096 tokens of output at most: it ran out alone, beside a peer whose pool
    was not used."""
    allocator = make()
    assert admits(budget_of(allocator), request(SIZE + GROWN), clip=3)
    assert not admits(budget_of(allocator), request(SIZE + GROWN + 1), clip=3)
    running = request(SIZE - 1)
    assert not admits(budget_of(allocator, [(running, 3)]), request(SIZE), clip=3)


def test_a_long_request_gets_no_own_slot_that_a_short_one_may_still_take():
    allocator = make()
    for estimate in (0, 3):
        budget = budget_of(allocator, [(SHORT, estimate)])
        assert not admits(budget, request(SIZE + GROWN - 2))
    # Of the grown ones no short request takes any.
    crowd = [(short(SIZE - 2), 1) for _ in range(3)]
    budget = budget_of(make(grown=SIZE), crowd)
    assert admits(budget, request(SIZE))


def test_a_long_request_whose_prefix_holds_what_others_were_given_waits():
    """Its lock on cached slots took them from a prompt admitted before it in the same pass, which
    then found none: the worker raised."""
    allocator, cached = make(grown=20), 5
    allocator.alloc(SIZE - cached)
    budget = budget_of(allocator)
    assert admits(budget, short(3, prompt=2))
    # All that is left is cached, and its prefix.
    allocator.alloc(cached)
    assert not admits(budget, request(SIZE + 1))
    assert admits(budget_of(allocator), request(SIZE + 1))


def test_running_long_requests_do_not_eat_the_own_budget_while_grown_slots_last():
    grown = 20
    for tokens, fits in ((grown, True), (grown + 1, False)):
        running = request(tokens)
        assert admits(budget_of(make(grown), [(running, 1)]), SHORT) == fits
    crowd = [(request(grown - SIZE), 1), (request(SIZE + 1), 1)]
    assert not admits(budget_of(make(grown), crowd), SHORT)


def test_admitted_long_requests_take_grown_slots_out_of_the_budget_first():
    budget = budget_of(make(grown=20))
    assert admits(budget, request(20))
    assert admits(budget, SHORT)
    assert not admits(budget, request(SIZE - 1))
    budget = budget_of(make(grown=20))
    assert admits(budget, request(21))
    assert not admits(budget, SHORT)


def test_nobody_is_full_while_short_requests_have_room():
    budget = budget_of(make(grown=20))
    assert admits(budget, request(20))
    assert budget.has_capacity()


def test_the_next_chunk_of_a_long_prompt_takes_what_there_is():
    allocator = make()
    allocator.alloc(SIZE)
    budget = budget_of(allocator)
    budget.consider(LONG)
    assert budget.has_capacity()
    assert budget.available_chunk_tokens(99) == GROWN
    budget.reserve(3, 0, is_chunked_continuation=True)
    assert budget.remaining_current == GROWN - 3
    budget.consider(SHORT)
    assert not budget.has_capacity()


@pytest.mark.parametrize("long", [True, False])
def test_a_prompt_that_has_begun_waits_when_nothing_is_left(long):
    """Upstream asks for a whole chunk then, and ended the server since there was none."""
    allocator = make(page=4)
    taken = allocator.alloc(4 * SIZE)
    allocator.ledger.extra.take(GROWN)
    req = request(4 * (SIZE + 1) if long else 4 * (SIZE - 2), prompt=20)
    req.kv.kv_allocated_len = 6
    budget = budget_of(allocator)
    budget.consider(req)
    assert budget.available_chunk_tokens(8) == 2
    req.kv.kv_allocated_len = 8
    assert budget.available_chunk_tokens(8) is None
    allocator.free(taken[:4])
    # Upstream would count it among a batch of others.
    assert not admits(budget, request(1, prompt=1))
    budget.consider(req)
    assert budget.available_chunk_tokens(8) == 4


def test_a_preempted_request_gives_back_what_it_had_reserved_of_each_class():
    """Preemption took a long request's share of grown slots out of the own ones."""
    allocator = make()
    preempted = request(SIZE + GROWN)
    budget = budget_of(allocator, [(preempted, GROWN + 1), (SHORT, 1)])
    before = budget_of(allocator, [(SHORT, 1)])
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
    assert not admits(budget, request(SIZE + GROWN))
    budget.release_running(preempted, 4)
    allocator.free(held)
    assert admits(budget, request(SIZE + GROWN))


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
