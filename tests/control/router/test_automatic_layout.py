"""Under the policy `amoeba` the desk merges for long requests and splits behind them."""

import pytest

from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.policy.base import Change, Decision, Hold, NewBase, Policy
from amoeba_sglang.control.policy.setting import SETTING
from amoeba_sglang.control.policy.throughput import DegreeThroughput, StepCost, ThroughputTable
from amoeba_sglang.control.router.effects import Answer, Cancel
from amoeba_sglang.control.router.waiting_limits import WaitingLimits
from tests.control.router.values import LONG, WORKERS, Case

LINGER_S = SETTING.linger_s
AMOEBA = POLICIES["amoeba"]


@pytest.fixture
def case():
    return Case(AMOEBA)


def merge_for(case, rid="long", epoch=1, ranks=(0, 1), **size):
    case.arrive(**{**LONG, **size}, rid=rid)
    case.tick()
    case.finish(*ranks, epoch=epoch)
    case.tick(0.1)


def test_a_long_request_gets_its_merge_and_the_instance_splits_when_it_is_gone(case):
    case.arrive(**LONG, rid="long")
    [waiting] = case.state()["waiting"]["oldest"]
    assert (waiting["rid"], waiting["degree"]) == ("long", 2)
    assert "merge" in waiting["reason"]
    case.tick()
    assert case.orders() == [("prepare", (0, 1), 2)]
    case.finish(0, 1)
    case.tick()
    assert case.homes("long") == [0]
    assert case.state()["long_requests"] == [1, 0, 0, 0]
    case.longs_here(0, "long")
    case.tick(60.0)
    assert case.running is None
    case.longs_here(0)
    case.said.clear()
    case.tick(LINGER_S - 0.1)
    assert case.running is None
    case.tick(0.2)
    assert case.orders() == [("prepare", (0, 1), 1)]
    assert case.found(Answer) == []
    reasons = " ".join(f"{one['decision']}: {one['reason']}" for one in case.state()["decisions"])
    assert "request long needs 150 tokens" in reasons and "no long request for" in reasons


def test_a_long_request_that_its_worker_refuses_at_once_is_forgotten_at_once(case):
    """It blocked every change of its instance for 30 s."""
    merge_for(case)
    assert case.state()["long_requests"] == [1, 0, 0, 0]
    case.longs_here(0, ended=["long"])
    assert case.state()["long_requests"] == [0, 0, 0, 0]
    case.said.clear()
    case.tick(LINGER_S + 0.1)
    assert case.orders() == [("prepare", (0, 1), 1)]


def test_short_requests_avoid_the_merged_instance(case):
    merge_for(case)
    for number in range(8):
        case.arrive(rid=f"short-{number}")
    assert {case.homes(f"short-{number}")[0] for number in range(8)} == {2, 3}


def test_a_long_request_that_names_a_rank_or_no_layout_holds_is_answered_at_once(case):
    case.arrive(**LONG, rank=1, rid="named")
    case.arrive(prompt=700, output=1, rid="huge")
    (_, status, named), (_, other, huge) = case.refusals()
    assert status == other == 400
    assert "routed_dp_rank 1" in named
    assert "no layout" in huge and "593" in huge
    assert case.state()["waiting"]["count"] == 0


def test_an_aborted_request_that_waits_is_answered_and_gets_no_merge(case):
    case.arrive(**LONG, rid="long")
    case.abort("long")
    assert [one.request.rid for one in case.found(Cancel)] == ["long"]
    case.tick()
    assert case.running is None


def test_a_full_queue_answers_503():
    case = Case(AMOEBA, waiting=WaitingLimits(WORKERS, most_in_all=2))
    for number in range(3):
        case.arrive(**LONG, rid=f"long-{number}")
    [(rid, status, reason)] = case.refusals()
    assert (rid, status) == ("long-2", 503)
    assert "2 requests" in reason


def test_a_request_that_waited_too_long_gets_503_with_what_it_waited_for(case):
    case.transform([0, 1], 2, "by hand")
    case.refuse(1)
    case.arrive(**LONG, rid="long")
    case.tick(599.0)
    case.refuse(0, epoch=2)
    assert case.refusals() == []
    case.tick(2.0)
    [(rid, status, reason)] = case.refusals()
    assert (rid, status) == ("long", 503)
    assert "waited 601 s" in reason and "150 tokens" in reason and "merge" in reason


def test_a_refused_or_undone_merge_lets_its_request_wait_for_the_next(case):
    case.arrive(**LONG, rid="long")
    case.tick()
    case.refuse(1)
    case.tick(0.1)
    case.vote(2, 3, epoch=2)
    case.done(2, 3, epoch=2, error="no more mappings")
    assert case.refusals() == [] and case.state()["waiting"]["count"] == 1
    case.tick(2.0)
    case.finish(0, 1, epoch=3)
    assert case.homes("long") == [] and case.refusals() == []
    case.tick()
    assert case.homes("long") == [0]


def test_workers_that_refuse_are_left_alone_for_a_while_and_others_are_asked(case):
    case.arrive(**LONG, rid="long")
    case.tick()
    case.refuse(1)
    case.said.clear()
    case.tick(0.1)
    assert case.orders() == [("prepare", (2, 3), 2)]
    case.refuse(3, epoch=2)
    case.said.clear()
    case.tick()
    assert case.said == []
    case.tick(1.0)
    assert case.orders() == [("prepare", (0, 1), 2)]
    assert "not tried again for 1 s" in str(case.state()["decisions"])


def test_what_an_operator_has_merged_stays_until_he_splits_it(case):
    case.transform([0, 1], 2, "by hand")
    case.finish(0, 1)
    assert case.state()["pinned"] == [0, 1]
    case.tick(100.0)
    assert case.running is None
    case.transform([0, 1], 1, "by hand again")
    case.finish(0, 1, epoch=2)
    assert case.state()["pinned"] == []


def test_a_long_request_uses_what_an_operator_has_merged(case):
    case.transform([2, 3], 2, "by hand")
    case.finish(2, 3)
    case.arrive(**LONG, rid="long")
    assert case.homes("long") == [2]


def test_a_request_that_a_worker_never_names_does_not_keep_its_instance(case):
    """It was aborted on its way: without a bound the instance would stay merged for ever."""
    merge_for(case)
    case.tick(31 + LINGER_S)
    case.tick(LINGER_S + 0.1)
    assert case.running is not None


class Rules:
    """Wants a base degree, and instances of it; remembers what it was shown."""

    def __init__(self):
        self.wanted, self.scenes = 1, []

    def base(self, scene):
        self.scenes.append(scene)
        return NewBase(self.wanted, "because") if self.wanted != scene.base else None

    def admit(self, request, scene, able):
        return Decision(able[0], "first") if able else Hold("nobody is able")

    def change(self, scene):
        for ranks in scene.blocks(scene.base):
            if scene.layout.degrees[ranks[0]] != scene.base and not scene.pinned & set(ranks):
                return Change(ranks, scene.base, "to the base degree")
        return None


@pytest.fixture
def rules():
    return Rules()


def test_the_rules_are_shown_the_traffic_and_what_steps_cost(rules):
    cost = StepCost(0.02, 1e-4, 1e-5, 1e-7, 1e-9)
    saved = ThroughputTable({d: DegreeThroughput(cost, 100 * d, 64 * d) for d in (1, 2, 4)}, 0.5)
    case = Case(Policy(AMOEBA.place, rules), saved_table=saved)
    for number in range(6):
        case.arrive(rid=f"short-{number}")
    case.tick(2.0)
    [scene] = rules.scenes
    assert scene.table.degrees[2].cost == cost and scene.table.degrees[2].kv_tokens == 260
    [kind] = scene.traffic
    assert (kind.degree, kind.prompt_tokens, kind.output_tokens) == (1, 10, 4)
    assert scene.evidence == pytest.approx(6, rel=0.1)
    case.tick(0.5)
    assert len(rules.scenes) == 1


def test_instances_follow_the_base_degree_and_what_it_holds_is_no_longer_long(rules):
    case = Case(Policy(AMOEBA.place, rules))
    case.arrive(**LONG, rid="waits")
    assert case.homes("waits") == []
    rules.wanted = 2
    case.tick()
    assert case.state()["base_degree"] == 2
    case.finish(0, 1)
    case.tick(0.1)
    assert case.homes("waits") == [0]
    case.finish(2, 3, epoch=2)
    case.arrive(**LONG, rid="next")
    assert case.homes("next") in ([0], [2])
    made = [one["decision"] for one in case.state()["decisions"]]
    assert "the base degree becomes 2" in made and "ranks [2, 3] to degree 2" in made
    reasons = [one["reason"] for one in case.state()["history"]]
    assert reasons == ["to the base degree"] * 2


def test_an_operator_releases_what_is_at_the_base_degree_already(rules):
    """Nothing changed then, so nobody was told, and the ranks stayed pinned for ever."""
    case = Case(Policy(AMOEBA.place, rules))
    case.transform([0, 1], 2, "by hand")
    case.finish(0, 1)
    assert case.state()["pinned"] == [0, 1]
    rules.wanted = 2
    case.tick()
    case.finish(2, 3, epoch=2)
    case.transform([0, 1], 2, "release")
    assert case.state()["history"][-1]["outcome"] == "unchanged"
    assert case.state()["pinned"] == []
