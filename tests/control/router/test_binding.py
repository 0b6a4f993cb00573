"""A change that would strand an accepted request is refused before any worker is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.policy.base import Change, Hold, Policy
from amoeba_sglang.control.router.effects import Answer, Finished, Limits, Order
from amoeba_sglang.control.router.limits import fits
from tests.control.router.values import CAPACITY, IN_TURN, LONG, Case

PAIR, FOUR = (2, 2, 1, 1), (4, 4, 4, 4)


def refusal(case, ranks, degree, operation_id="op"):
    """The error of a change that no worker is asked about."""
    before = len(case.found(Order))
    case.transform(ranks, degree, operation_id)
    answer = case.found(Answer)[-1]
    assert (answer.status, answer.body["outcome"]) == (409, "refused"), answer
    assert len(case.found(Order)) == before and case.running is None
    return answer.body["error"]


def test_a_split_waits_for_the_end_of_the_request_that_needs_the_instance():
    case = Case(layout=PAIR)
    case.arrive(**LONG, rid="long")
    error = refusal(case, [0, 1], 1)
    assert error == (
        "request long needs up to 150 tokens of KV memory, but rank 0 can have 98 at degree 1 for "
        "one; wait for its end, or abort it"
    )
    case.longs_here(0, "long")
    refusal(case, [0, 1], 1, "again")
    case.longs_here(0)
    case.transform([0, 1], 1, "at last")
    assert case.orders() == [("prepare", (0, 1), 1)]


def test_what_the_smaller_instance_holds_is_no_obstacle():
    case = Case(layout=FOUR)
    case.arrive(**LONG)
    case.transform(range(4), 2)
    assert case.orders() == [("prepare", (0, 1, 2, 3), 2)]


def test_a_merge_that_takes_the_anchor_s_place_away_is_refused():
    case = Case(layout=(2, 2, 2, 2))
    case.arrive(**LONG, rank=2, rid="long")
    error = refusal(case, range(4), 4)
    assert "rank 2 can have 98 at degree 4" in error


def test_three_are_named_and_the_others_counted():
    case = Case(layout=FOUR)
    for number in range(5):
        case.arrive(prompt=200 + number, output=100, rid=f"long-{number}")
    error = refusal(case, range(4), 1)
    assert [f"long-{n} needs up to {300 + n} tokens" in error for n in range(5)] == [True] * 3 + [
        False
    ] * 2
    assert "; 2 more like these; wait" in error


def test_an_aborted_request_binds_nothing_although_its_worker_still_names_it():
    """A split right behind an abort reaches the worker behind it."""
    case = Case(layout=PAIR)
    case.arrive(**LONG, rid="long")
    case.longs_here(0, "long")
    case.abort("long")
    case.longs_here(0, "long")
    case.transform([0, 1], 1)
    assert case.orders() == [("prepare", (0, 1), 1)]


def test_a_short_request_binds_nothing():
    case = Case(layout=PAIR)
    case.arrive(prompt=90, output=8, rank=0)
    case.transform([0, 1], 1)
    assert case.orders() == [("prepare", (0, 1), 1)]


def test_one_that_its_worker_never_names_binds_for_thirty_seconds():
    case = Case(layout=PAIR)
    case.arrive(**LONG)
    case.tick(29.0)
    refusal(case, [0, 1], 1)
    case.tick(2.0)
    case.transform([0, 1], 1, "later")
    assert case.orders() == [("prepare", (0, 1), 1)]


class Stubborn:
    """Lets nobody in and wants the same split again and again."""

    def base(self, scene):
        return None

    def admit(self, request, scene, able):
        return Hold("not yet")

    def change(self, scene):
        refused = scene.is_refused((0, 1), 1)
        return None if refused else Change((0, 1), 1, "no long request is left")


def test_a_request_that_waits_keeps_the_instance_that_it_waits_for():
    case = Case(Policy(IN_TURN.place, Stubborn()), layout=PAIR)
    case.arrive(**LONG, rid="long")
    assert refusal(case, [0, 1], 1) == (
        "request long waits for an instance that holds 150 tokens, but one request can have 98 "
        "then; wait for its end, or abort it"
    )
    # One that needs more than the present layout has loses nothing.
    case.abort("long")
    case.arrive(prompt=300, output=30, rid="longer")
    case.transform([0, 1], 1, "again")
    assert case.orders() == [("prepare", (0, 1), 1)]


def test_rules_wait_after_such_a_refusal_as_after_any():
    case = Case(Policy(IN_TURN.place, Stubborn()), layout=PAIR)
    case.arrive(**LONG, rid="long")
    case.tick()
    assert case.said == [case.found(Finished)[0], case.found(Limits)[0]]
    [decision] = case.state()["decisions"][-1:]
    assert "not tried again for 1 s" in decision["decision"]
    assert "request long waits" in decision["reason"]
    case.tick(0.9)
    assert len(case.state()["history"]) == 1
    case.tick(0.2)
    assert len(case.state()["history"]) == 2
    case.abort("long")
    case.tick(2.0)
    assert case.orders() == [("prepare", (0, 1), 1)]


@pytest.mark.parametrize("outcome", ["refused", "undone", "timeout"])
def test_a_held_request_whose_merge_fails_is_answered_with_the_limits(outcome):
    case = Case()
    case.transform([0, 1], 2)
    case.arrive(**LONG)
    if outcome == "refused":
        case.refuse(0)
    elif outcome == "undone":
        case.vote(0, 1)
        case.done(0, 1, error="no more mappings")
    else:
        case.tick(20.0)
    [(_, status, reason)] = case.refusals()
    assert status == 400 and "at most 93" in reason and "POST /amoeba/transform" in reason


LAYOUTS = st.sampled_from(
    [(1, 1, 1, 1), PAIR, (1, 1, 2, 2), (2, 2, 2, 2), FOUR],
).map(Layout)


@given(LAYOUTS, LAYOUTS, st.integers(0, 700), st.integers(0, 700))
def test_what_is_promised_during_a_change_is_served_at_every_moment_of_it(
    before, after, prompt, output
):
    """A worker keeps to the smaller of both degrees until the change is over: its limits for new
    requests are those of min(before, after), so it neither refuses nor shortens what is sent."""
    for rank, promised in enumerate(CAPACITY.promised(before, after)):
        degrees = before.degrees[rank], after.degrees[rank]
        slots = min(
            CAPACITY.instance_tokens(d) if rank % d == 0 else CAPACITY.own_tokens for d in degrees
        )
        # SGLang's own rules: validate_input_length and init_req_max_new_tokens.
        max_req_len = min(slots, CAPACITY.context_tokens) - 1
        served = prompt < max_req_len - 5 and output <= max_req_len - prompt - 1
        assert fits(prompt, output, promised) == served


def test_a_changing_anchor_gets_what_it_can_hold_before_and_after():
    """It was refused, or silently shortened, in the middle of 2 -> 4."""
    case = Case(layout=(2, 2, 2, 2))
    case.transform(range(4), 4)
    case.arrive(**LONG, rid="both")
    assert case.homes("both") == [0]
    case.arrive(prompt=300, output=30, rid="after")
    case.arrive(**LONG, rank=2, rid="before")
    assert case.homes("after") == case.homes("before") == []
    case.finish(0, 1, 2, 3)
    assert case.homes("after") == [0]
    assert [(rid, status) for rid, status, _ in case.refusals()] == [("before", 400)]
