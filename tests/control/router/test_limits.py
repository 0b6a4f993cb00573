import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.router.limits import Capacity, RequestLimits, fits, rank_refusal

# Workers of 100 slots and a longer context; instances grow by 60 and 200 slots.
CAPACITY = Capacity(
    own_tokens=100, context_tokens=500, grown_tokens={1: 0, 2: 60, 4: 200}, page_tokens=1
)
ALONE, PAIR, FOUR = Layout((1,) * 4), Layout((2, 2, 1, 1)), Layout((4,) * 4)


def limits_of(layout, capacity=CAPACITY):
    return RequestLimits.of_layout(capacity, layout)


def worker_serves(slots, prompt, output):
    """SGLang's own rules: validate_input_length and init_req_max_new_tokens (scheduler.py)."""
    max_req_len = min(slots, CAPACITY.context_tokens) - 1
    return prompt < max_req_len - 5 and output <= max_req_len - prompt - 1


@given(
    st.sampled_from([(ALONE, 100), (PAIR, 260), (FOUR, 600)]),
    st.integers(0, 500),
    st.integers(0, 500),
)
def test_limits_are_those_of_the_worker_with_most_slots(case, prompt, output):
    layout, slots = case
    limits = limits_of(layout)
    assert (limits.refusal(prompt, output) is None) == worker_serves(slots, prompt, output)
    assert (limits.refusal(prompt, None) is None) == worker_serves(slots, prompt, 0)
    assert (limits.refusal_by_all(prompt, output) is None) == worker_serves(600, prompt, output)


def test_only_the_anchor_of_an_instance_has_more_than_its_own_slots():
    assert CAPACITY.by_rank(ALONE) == (98, 98, 98, 98)
    assert CAPACITY.by_rank(PAIR) == (258, 98, 98, 98)
    assert CAPACITY.by_rank(Layout((2,) * 4)) == (258, 98, 258, 98)


def test_the_context_of_the_model_bounds_every_layout():
    assert CAPACITY.by_rank(FOUR) == (498, 98, 98, 98)
    assert replace(CAPACITY, context_tokens=50).by_rank(FOUR) == (48, 48, 48, 48)


def test_an_instance_holds_the_slots_of_its_workers_and_the_grown_ones():
    assert [CAPACITY.instance_tokens(degree) for degree in (1, 2, 4)] == [100, 260, 600]


def test_limits_follow_the_layout():
    assert limits_of(ALONE) == RequestLimits(98, 98, 498, (98, 98))
    assert limits_of(PAIR) == RequestLimits(98, 258, 498, (98, 258))
    assert limits_of(FOUR) == RequestLimits(98, 498, 498, (98, 498))


def test_a_refusal_by_the_present_layout_names_the_way_out():
    refusal = limits_of(PAIR).refusal(250, 20)
    assert all(number in refusal for number in ("270 tokens", "250", "20", "258", "498"))
    assert "POST /amoeba/transform" in refusal
    assert limits_of(PAIR).refusal_by_all(250, 20) is None


def test_a_refusal_by_every_layout_has_the_numbers_and_no_way_out():
    limits = limits_of(ALONE)
    both = limits.refusal(400, 100)
    assert all(number in both for number in ("500 tokens", "400", "100", "no layout", "498"))
    prompt = limits.refusal(494, None)
    assert all(number in prompt for number in ("494 tokens", "no layout", "493"))
    assert limits.refusal_by_all(400, 100) == both
    assert limits.refusal_by_all(494, None) == prompt
    assert "transform" not in both + prompt


def test_an_open_end_stays_off_the_grown_slots_if_the_prompt_does():
    for layout in (ALONE, PAIR, FOUR):
        assert limits_of(layout).open_end(10) == 88
        assert limits_of(layout).open_end(93) == 5
    assert limits_of(PAIR).open_end(94) == 258 - 94
    assert limits_of(FOUR).open_end(450) == 48


def test_a_prompt_that_the_present_layout_cannot_hold_has_no_open_end():
    """The end was negative, and the refusal spoke of -52 tokens of output."""
    assert limits_of(ALONE).open_end(94) is None
    assert limits_of(ALONE).open_end(250) is None
    assert limits_of(PAIR).open_end(253) == 5
    assert limits_of(PAIR).open_end(254) is None


def test_an_open_end_asks_for_no_higher_degree_than_the_prompt_does():
    """A prompt just above one worker's slots took the highest degree, for output it never wrote."""
    limits = RequestLimits.of_all_layouts(CAPACITY)
    assert limits.ladder == (98, 258, 498)
    assert [limits.open_end(prompt) for prompt in (10, 94, 300)] == [88, 258 - 94, 498 - 300]
    assert limits.open_end(600) is None


@given(
    st.sampled_from([ALONE, PAIR, FOUR]),
    st.integers(0, 3),
    st.integers(0, 600),
    st.none() | st.integers(0, 600),
)
def test_a_refusal_never_names_a_need_that_its_limit_holds(layout, rank, prompt, output):
    """With 736 of prompt and output and 735 of prompt, 736 were too many for a limit of 736."""
    limits, own = limits_of(layout), CAPACITY.by_rank(layout)[rank]
    refusals = [limits.refusal(prompt, output), limits.refusal_by_all(prompt, output)]
    if not fits(prompt, output, own):
        refusals.append(rank_refusal(rank, prompt, output, own))
    for refusal in filter(None, refusals):
        needed = re.search(r"(?:has|needs) (\d+) tokens", refusal)
        limit = re.search(r"hold (?:at most|more than) (\d+)", refusal)
        assert int(needed[1]) > int(limit[1]), refusal
