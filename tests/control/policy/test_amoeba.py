"""The rules of the policy `amoeba`, played against long requests of every kind."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.policy.amoeba import LongRequestRules, place_beside_long_requests
from amoeba_sglang.control.policy.base import (
    Change,
    Decision,
    Hold,
    LongRequest,
    RequestSize,
    View,
    WorkerLoad,
)
from amoeba_sglang.control.policy.lending import allow_lending
from amoeba_sglang.control.policy.outlook import foresee
from amoeba_sglang.control.policy.setting import SETTING
from amoeba_sglang.control.policy.throughput import RequestClass
from tests.control.policy.long_traffic import CHANGE_S, TICK_S, Coming, Traffic
from tests.control.policy.tables import table

RULES = LongRequestRules()
LINGER_S, PATIENCE_S = SETTING.linger_s, SETTING.patience_s
COMING = st.builds(
    Coming,
    st.floats(0, 200),
    st.sampled_from((2, 4, 8)),
    st.floats(0.1, 60),
)
# What one request may add to everybody's wait: its own time, and a layout made and unmade for it.
OVERHEAD_S = 2 * (CHANGE_S + LINGER_S) + 4 * TICK_S


@settings(max_examples=60, deadline=None)
@given(st.lists(COMING, min_size=1, max_size=25))
def test_every_long_request_is_placed_and_the_layout_comes_home(coming):
    traffic = Traffic(RULES, coming)
    work = sum(one.seconds + OVERHEAD_S for one in coming)
    traffic.play(until=max(one.at for one in coming) + PATIENCE_S + work)
    assert len(traffic.waits) == len(coming)
    traffic.idle(LINGER_S + 8 * (CHANGE_S + TICK_S) + 1)
    assert set(traffic.layout.degrees) == {1}
    for number, one in enumerate(coming):
        assert len(traffic.homes[f"long-{number}"]) >= one.degree


@settings(max_examples=60, deadline=None)
@given(st.lists(COMING, max_size=25), st.sampled_from((1, 2)))
def test_a_layout_changes_at_most_a_few_times_for_each_long_request(coming, base):
    traffic = Traffic(RULES, coming, base=base)
    traffic.play(until=10_000)
    traffic.idle(60)
    # It merges for a request, and every merged block splits once; a merge may join merged blocks.
    assert len(traffic.changes) <= 2 * len(coming)
    still = len(traffic.changes)
    traffic.idle(60)
    assert len(traffic.changes) == still


@settings(max_examples=40, deadline=None)
@given(st.lists(COMING, min_size=2, max_size=25))
def test_a_block_is_not_split_right_after_its_last_long_request(coming):
    traffic = Traffic(RULES, coming)
    traffic.play(until=10_000)
    made: dict[int, float] = {}
    for at, change in traffic.changes:
        if change.degree == 1:
            assert all(at - made[rank] >= LINGER_S for rank in change.ranks)
        made |= dict.fromkeys(change.ranks, at)


@given(
    st.tuples(*[st.builds(WorkerLoad, st.integers(0, 99), st.integers(0, 99))] * 8),
    st.sampled_from((1, 2, 4)),
)
def test_without_long_requests_nothing_ever_changes(loads, base):
    traffic = Traffic(RULES, [], base=base, loads=loads)
    traffic.idle(30)
    assert traffic.changes == []


def test_long_requests_queue_behind_one_another_before_they_take_more_than_half():
    traffic = Traffic(RULES, [Coming(0.1 * n, 2, 5.0) for n in range(3)])
    traffic.play(until=100)
    assert traffic.most_lent <= 6
    single = Traffic(RULES, [Coming(0.0, 2, 20.0), Coming(1.0, 2, 20.0), Coming(5.0, 2, 20.0)])
    single.play(until=100)
    assert single.most_lent <= 4


def test_a_backlog_takes_more_workers_but_leaves_some_to_short_requests():
    traffic = Traffic(RULES, [Coming(0.0, 2, 2.0) for _ in range(12)])
    traffic.play(until=100)
    assert traffic.most_lent == 6


def test_a_request_of_the_highest_degree_is_not_passed_for_ever_by_smaller_ones():
    """Requests of degree 2, one after the other, kept an instance of 8 from being made."""
    stream = [Coming(0.5 * n, 2, 4.0) for n in range(400)]
    traffic = Traffic(RULES, [*stream, Coming(10.0, 8, 5.0)])
    traffic.play(until=2000)
    assert traffic.waits["long-400"] < PATIENCE_S + 60


def test_a_merge_takes_the_block_with_the_least_work():
    loads = tuple(WorkerLoad(1, 0, tokens) for tokens in (50, 50, 9, 9, 40, 40, 8, 11))
    traffic = Traffic(RULES, [], loads=loads)
    traffic.waiting.append(LongRequest("long", 1000, 2, 0.0))
    change = RULES.change(traffic.scene())
    assert change is not None and (change.ranks, change.degree) == ((2, 3), 2)
    assert "long" in change.reason and "2 of 8 workers" in change.reason


def test_a_request_goes_to_the_smallest_free_instance_that_holds_it():
    traffic = Traffic(RULES, [])
    traffic.layout = Layout((4, 4, 4, 4, 2, 2, 1, 1))
    request = LongRequest("long", 1000, 2, 0.0)
    decision = RULES.admit(request, traffic.scene(), (0, 4))
    assert isinstance(decision, Decision) and decision.rank == 4
    traffic.living["other"] = (4, 9.0)
    decision = RULES.admit(request, traffic.scene(), (0, 4))
    assert isinstance(decision, Decision) and decision.rank == 0


def test_blocks_of_an_operator_are_left_alone_and_the_reason_says_so():
    traffic = Traffic(RULES, [], pinned=frozenset(range(8)))
    request = LongRequest("long", 1000, 2, 0.0)
    traffic.waiting.append(request)
    assert RULES.change(traffic.scene()) is None
    hold = RULES.admit(request, traffic.scene(), ())
    assert isinstance(hold, Hold) and "operator" in hold.reason


def test_a_refused_merge_is_tried_elsewhere_and_later_again():
    traffic = Traffic(RULES, [])
    traffic.waiting.append(LongRequest("long", 1000, 8, 0.0))
    scene = replace(traffic.scene(), refused={(tuple(range(8)), 8): 1.0})
    assert RULES.change(scene) is None
    later = RULES.change(replace(scene, now=1.0))
    assert later is not None and later.degree == 8
    traffic.waiting[:] = [LongRequest("long", 1000, 2, 0.0)]
    scene = replace(traffic.scene(), refused={((0, 1), 2): 1.0})
    assert RULES.change(scene) == Change((2, 3), 2, RULES.change(scene).reason)


ONE = RequestSize(10, 4)


@given(
    st.tuples(*[st.builds(WorkerLoad, st.integers(0, 9), st.integers(0, 9))] * 4),
    st.sets(st.integers(0, 3)),
)
def test_short_requests_avoid_instances_of_long_ones_while_there_are_others(loads, reserved):
    view = View(((0,), (1,), (2,), (3,)), loads, 0, (0, 1, 2, 3), frozenset(reserved))
    rank = place_beside_long_requests(ONE, view).rank
    assert rank not in reserved or len(reserved) == 4


TABLE = table()
LONG_TRAFFIC = (RequestClass(10.0, 1, 1000, 200), RequestClass(0.02, 2, 120_000, 300))


def measured(traffic=LONG_TRAFFIC, **made):
    return {"table": table(**made), "traffic": traffic, "evidence": 1000.0}


@settings(max_examples=30, deadline=None)
@given(st.lists(COMING, min_size=1, max_size=25), st.floats(0.1, 60))
def test_with_a_table_too_every_long_request_is_placed_and_changes_stay_few(coming, rate):
    traffic = (RequestClass(rate, 1, 1000, 200), RequestClass(0.05, 2, 120_000, 300))
    traffic = Traffic(RULES, coming, knowledge=measured(traffic))
    traffic.play(until=10_000)
    traffic.idle(60)
    assert len(traffic.waits) == len(coming)
    assert len(traffic.changes) <= 2 * len(coming)
    assert set(traffic.layout.degrees) == {1}


def lending(backlog=1, waited=0.0, rate=10.0):
    traffic = (RequestClass(rate, 1, 1000, 200), RequestClass(0.02, 2, 120_000, 300))
    scene = Traffic(RULES, [], knowledge=measured(traffic)).scene()
    request = LongRequest("long", 120_300, 2, -waited, 120_000)
    scene = replace(scene, waiting=(request,), backlog=backlog)
    outlook = foresee(TABLE, 1, traffic, SETTING.token_s)
    return allow_lending(request, 2, scene, SETTING, outlook)


def test_short_requests_keep_what_they_need_until_the_backlog_or_the_wait_is_long():
    assert lending(rate=0.1) == 8
    assert lending(rate=35.0) == 2
    assert lending(rate=35.0, backlog=1) <= lending(rate=35.0, backlog=50) <= 8
    assert lending(rate=35.0, backlog=50) > 2
    assert lending(rate=35.0, waited=PATIENCE_S) == 8


def test_a_prompt_that_would_take_too_long_gets_a_higher_degree():
    scene = Traffic(RULES, [], knowledge=measured()).scene()
    seconds = TABLE.prompt_seconds(2, 280_000)
    assert TABLE.prompt_seconds(4, 280_000) < SETTING.long_ttft_s < seconds
    request = LongRequest("long", 280_300, 2, 0.0, 280_000)
    change = RULES.change(replace(scene, waiting=(request,), backlog=1))
    assert change is not None and change.degree == 4
    hopeless = LongRequest("long", 340_000, 2, 0.0, 10**7)
    change = RULES.change(replace(scene, waiting=(hopeless,), backlog=1))
    assert change is not None and change.degree == 2


def test_a_second_long_request_waits_for_the_prompt_of_the_first():
    traffic = Traffic(RULES, [], knowledge=measured((RequestClass(39.0, 1, 1000, 200),)))
    traffic.layout = Layout((2, 2, 1, 1, 1, 1, 1, 1))
    traffic.living["first"] = (0, 99.0)
    request = LongRequest("second", 120_300, 2, 0.0, 120_000)
    busy = (WorkerLoad(1, 0, 120_000, 100_000), *[WorkerLoad()] * 7)
    held = RULES.admit(request, replace(traffic.scene(), loads=busy), (0,))
    assert isinstance(held, Hold) and "behind other long requests" in held.reason
    decoding = (WorkerLoad(1, 0, 120_000, 0), *[WorkerLoad()] * 7)
    assert isinstance(
        RULES.admit(request, replace(traffic.scene(), loads=decoding), (0,)), Decision
    )
    full = (WorkerLoad(1, 0, 300_000, 0), *[WorkerLoad()] * 7)
    assert isinstance(RULES.admit(request, replace(traffic.scene(), loads=full), (0,)), Hold)


CHEAP_MERGES = {"loss": 1.05, "tokens": (20_000, 250_000, 700_000, 1_600_000)}


def test_the_base_degree_follows_the_table_but_not_every_whim():
    traffic = Traffic(RULES, [], knowledge=measured())
    assert RULES.base(traffic.scene()) is None
    traffic.knowledge = measured(**CHEAP_MERGES)
    assert RULES.base(traffic.scene()) is None, "the last choice is too fresh"
    traffic.now = SETTING.base_dwell_s
    new = RULES.base(traffic.scene())
    assert new is not None and new.degree > 1 and "fewer workers" in new.reason
    assert RULES.base(replace(traffic.scene(), base=new.degree)) is None
    assert RULES.base(replace(traffic.scene(), pinned=frozenset((0,)))) is None


def test_a_few_requests_do_not_change_the_base_degree():
    """A server stayed merged behind its first long request, once that had shown what steps cost."""
    traffic = Traffic(RULES, [], knowledge=measured(**CHEAP_MERGES))
    traffic.now = SETTING.base_dwell_s
    scene = traffic.scene()
    assert RULES.base(replace(scene, evidence=SETTING.base_evidence - 1)) is None
    assert RULES.base(replace(scene, evidence=None)) is not None


def test_a_silence_does_not_change_the_base_degree():
    """A server merged 14 minutes after its last request, when it had forgotten all traffic."""
    traffic = Traffic(RULES, [], knowledge=measured((), **CHEAP_MERGES))
    traffic.now = SETTING.base_dwell_s
    assert RULES.base(replace(traffic.scene(), evidence=0.0)) is None


def test_the_layout_goes_to_the_base_degree_and_stays_there():
    traffic = Traffic(RULES, [], knowledge=measured(**CHEAP_MERGES))
    traffic.base = 2
    traffic.idle(30)
    assert set(traffic.layout.degrees) == {2}
    assert len(traffic.changes) == 4
    traffic.base = 1
    traffic.idle(30)
    assert set(traffic.layout.degrees) == {1}
    assert len(traffic.changes) == 8


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from((0.5, 20.0, 35.0)), min_size=1, max_size=20))
def test_traffic_that_changes_all_the_time_changes_the_base_at_most_once_a_dwell(rates):
    """Whatever the traffic does, within a bounded rate."""
    traffic, bases = Traffic(RULES, []), []
    for number, rate in enumerate(rates):
        mix = (RequestClass(rate, 1, 100 if number % 2 else 15_000, 250),)
        traffic.knowledge = measured(mix, **CHEAP_MERGES)
        traffic.now += 7.0
        new = RULES.base(replace(traffic.scene(), base_since=bases[-1][0] if bases else 0.0))
        if new is not None:
            bases.append((traffic.now, new.degree))
            traffic.base = new.degree
    for (before, _), (after, _) in pairwise(bases):
        assert after - before >= SETTING.base_dwell_s
