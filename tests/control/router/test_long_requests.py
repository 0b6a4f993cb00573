"""Requests longer than one worker's tokens: where they go while layouts change."""

import pytest

from amoeba_sglang.control.router.effects import Answer, Cancel, Forward, Limits
from amoeba_sglang.control.router.limits import RequestLimits
from tests.control.router.values import LONG, Case


@pytest.fixture
def case():
    return Case()


def merged(*degrees):
    return Case(layout=degrees or (2, 2, 1, 1))


def held(case):
    return case.desk.books.waiting


def test_a_long_request_goes_to_an_anchor_only_and_a_short_one_anywhere():
    case = merged(2, 2, 2, 2)
    for number in range(8):
        case.arrive(**LONG, rid=f"long-{number}")
    for number in range(8):
        case.arrive(prompt=90, output=8, rid=f"short-{number}")
    assert {case.homes(f"long-{number}")[0] for number in range(8)} == {0, 2}
    assert {case.homes(f"short-{number}")[0] for number in range(8)} == {0, 1, 2, 3}


def test_a_long_request_pinned_to_a_rank_without_grown_slots_is_refused_with_its_limit():
    case = merged()
    case.arrive(**LONG, rank=0)
    assert case.homes() == [0]
    case.arrive(**LONG, rank=1)
    [(_, status, reason)] = case.refusals()
    assert status == 400 and "routed_dp_rank 1" in reason and "at most 93" in reason


def test_a_long_request_waits_for_a_merge_and_goes_to_the_anchor(case):
    case.transform([2, 3], 2)
    case.arrive(**LONG)
    case.arrive(prompt=90, output=8, rid="short")
    assert (case.homes(), len(case.homes("short")), case.refusals()) == ([], 1, [])
    case.vote(2, 3)
    assert case.homes() == []
    case.done(2, 3)
    assert case.homes() == [2]
    assert (held(case), case.refusals()) == (0, [])


def test_a_long_request_that_no_end_of_the_merge_helps_is_refused_after_it(case):
    case.transform([0, 1], 2)
    case.arrive(prompt=270, output=30)
    assert case.refusals() == []
    case.finish(0, 1)
    [(_, status, reason)] = case.refusals()
    assert status == 400
    assert all(number in reason for number in ("270 tokens", "253", "598"))


def test_what_no_layout_holds_waits_for_no_transformation(case):
    case.transform([0, 1], 2)
    case.arrive(prompt=700, output=1)
    [(_, status, reason)] = case.refusals()
    assert status == 400 and "no layout" in reason and "593" in reason


def test_a_refused_merge_refuses_who_waited_for_it(case):
    case.transform([0, 1], 2)
    case.arrive(**LONG)
    case.refuse(1)
    [(_, status, reason)] = case.refusals()
    assert status == 400 and "98" in reason
    assert case.homes() == []


def test_a_long_request_does_not_enter_an_instance_that_is_being_split():
    case = merged()
    case.transform([0, 1], 1, "split")
    case.arrive(**LONG)
    assert case.homes() == []
    case.refuse(0, reason="long requests run")
    assert case.homes() == [0]


def test_another_anchor_takes_a_long_request_at_once():
    case = merged()
    case.transform([2, 3], 2, "second")
    case.arrive(**LONG)
    assert case.homes() == [0]


def test_an_abort_means_one_id_and_not_all_that_begin_with_it(case):
    case.transform([0, 1], 2)
    case.arrive(**LONG, rid="job-10")
    case.abort("job-1")
    assert (held(case), case.found(Cancel)) == (1, [])


@pytest.mark.parametrize("everything", [False, True])
def test_a_request_that_is_aborted_while_it_waits_is_answered_and_never_placed(case, everything):
    """Only workers heard of the abort: the request ran after the merge, and blocked the next."""
    case.transform([0, 1], 2)
    case.arrive(**LONG, rid="mine")
    case.arrive(**LONG, rid="other")
    case.abort("" if everything else "mine", everything)
    kept = 0 if everything else 1
    assert held(case) == kept
    ended = [one.request.rid for one in case.found(Cancel)]
    assert ended == ["mine", "other"][: 2 - kept]
    assert case.found(Forward) == [Forward("an abort")]
    case.finish(0, 1)
    assert case.homes("mine") == []
    assert case.homes("other") == [0] * kept


def test_the_front_end_hears_the_new_limits_before_the_answer(case):
    case.transform([0, 1], 2)
    case.vote(0, 1)
    case.said.clear()
    case.done(0, 1)
    limits, answer = [one for one in case.said if isinstance(one, Limits | Answer)]
    assert limits == Limits(RequestLimits(98, 258, 598, (98, 258)))
    assert answer.status == 200


def test_the_state_shows_what_the_layout_holds():
    def shown(*degrees):
        body = Case(layout=degrees).state()
        return body["max_request_tokens"], [one["max_tokens"] for one in body["instances"]]

    assert shown(1, 1, 1, 1) == (98, [100] * 4)
    assert shown(2, 2, 1, 1) == (258, [260, 100, 100])
    assert shown(4, 4, 4, 4) == (598, [600])


def test_an_undone_operation_keeps_the_layout_and_is_a_500_with_the_reason(case):
    case.transform([0, 1], 2)
    case.arrive(**LONG)
    case.vote(0, 1)
    case.done(0, error="no more mappings")
    case.done(1, error="ranks [0] ran into a memory fault")
    [limits] = case.found(Limits)
    assert limits.limits.request_tokens == 98
    [(_, _, reason)] = case.refusals()
    assert "98" in reason
    [answer] = case.found(Answer)
    assert (answer.status, answer.body["outcome"]) == (500, "undone")
    assert "rank 0: no more mappings" in answer.body["error"]
    assert answer.body["instances"] == [[0], [1], [2], [3]]
    assert case.degrees == (1, 1, 1, 1) and case.running is None
    case.arrive(prompt=90, output=8, rid="short")
    assert len(case.homes("short")) == 1
