"""Under the policy `amoeba` the router merges for long requests and splits behind them.

Workers have 100 slots; the anchor of two has 60 more, of four 200.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from sglang.srt.managers.io_struct import AbortReq

from amoeba_sglang.messages import AdminRequest, TransformOrder
from amoeba_sglang.policy import Change, Decision, Hold, NewBase
from amoeba_sglang.policy.setting import SETTING
from amoeba_sglang.policy.throughput import DegreeThroughput, StepCost, ThroughputTable
from amoeba_sglang.router import long_queue
from amoeba_sglang.router.calibration import Calibration
from tests.router.stand_in import Router, done, request, transform, vote

LONG = {"prompt": 120, "output": 30}
LINGER_S = SETTING.linger_s


class Clock:
    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    wall = now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def router(processless, clock):
    made = Router("amoeba", rules=True, clock=clock)
    made.guard = SimpleNamespace(check=lambda: None, stopping=False)
    return made


def orders(router):
    found = [m for _, m in router.to_workers if isinstance(m, TransformOrder)]
    return [(m.phase, tuple(m.ranks), m.after[0]) for m in found[:: len(found[0].ranks)]]


def homes(router, rid):
    return [r for r, m in router.to_workers if getattr(m, "rid", "") == rid]


def state(router):
    router.handle_admin(AdminRequest(rid="w", kind="state"))
    return router.front_end.pop().body


def merge_for(router, clock, rid="long", epoch=1, ranks=(0, 1), **size):
    router.place(request(**{**LONG, **size}, rid=rid))
    router.on_tick()
    vote(router, *ranks, epoch=epoch)
    done(router, *ranks, epoch=epoch)
    clock.time += 0.1
    router.on_tick()


def test_a_long_request_gets_its_merge_and_the_instance_splits_when_it_is_gone(router, clock):
    router.place(request(**LONG, rid="long"))
    [waiting] = state(router)["waiting"]["oldest"]
    assert (waiting["rid"], waiting["degree"]) == ("long", 2)
    assert "merge" in waiting["reason"]
    router.on_tick()
    assert orders(router) == [("prepare", (0, 1), 2)]
    vote(router, 0, 1)
    done(router, 0, 1)
    router.on_tick()
    assert homes(router, "long") == [0]
    assert state(router)["long_requests"] == [1, 0, 0, 0]
    router.report("long requests", 0, 0, request_ids=["long"], ended=[])
    clock.time = 60.0
    router.on_tick()
    assert router.operations.running is None
    router.report("long requests", 0, 0, request_ids=[], ended=[])
    router.to_workers.clear()
    clock.time += LINGER_S - 0.1
    router.on_tick()
    assert router.operations.running is None
    clock.time += 0.2
    router.on_tick()
    assert orders(router) == [("prepare", (0, 1), 1)]
    reasons = " ".join(f"{one['decision']}: {one['reason']}" for one in state(router)["decisions"])
    assert "request long needs 150 tokens" in reasons and "no long request for" in reasons


def test_a_long_request_that_its_worker_refuses_at_once_is_forgotten_at_once(router, clock):
    """It blocked every change of its instance for 30 s."""
    merge_for(router, clock)
    assert state(router)["long_requests"] == [1, 0, 0, 0]
    router.report("long requests", 0, 0, request_ids=[], ended=["long"])
    assert state(router)["long_requests"] == [0, 0, 0, 0]
    router.to_workers.clear()
    clock.time += LINGER_S + 0.1
    router.on_tick()
    assert orders(router) == [("prepare", (0, 1), 1)]


def test_short_requests_avoid_the_merged_instance(router, clock):
    merge_for(router, clock)
    for number in range(8):
        router.place(request(rid=f"short-{number}"))
    assert {homes(router, f"short-{number}")[0] for number in range(8)} == {2, 3}


def test_a_long_request_that_names_a_rank_or_no_layout_holds_is_answered_at_once(router):
    router.place(request(**LONG, rank=1, rid="named"))
    router.place(request(prompt=700, output=1, rid="huge"))
    named, huge = [answer.finished_reason for answer in router.front_end]
    assert named["status_code"] == huge["status_code"] == 400
    assert "routed_dp_rank 1" in named["message"]
    assert "no layout" in huge["message"] and "593" in huge["message"]
    assert state(router)["waiting"]["count"] == 0


def test_an_aborted_request_that_waits_is_answered_and_gets_no_merge(router):
    router.place(request(**LONG, rid="long"))
    router.handle_abort(AbortReq(rid="long"))
    assert [answer.rid for answer in router.front_end] == ["long"]
    router.on_tick()
    assert router.operations.running is None


def test_a_full_queue_answers_503(router, monkeypatch):
    monkeypatch.setattr("amoeba_sglang.router.long_requests.MOST_WAITING", 2)
    for number in range(3):
        router.place(request(**LONG, rid=f"long-{number}"))
    [answer] = router.front_end
    assert (answer.rid, answer.finished_reason["status_code"]) == ("long-2", 503)
    assert "2 requests" in answer.finished_reason["message"]


def test_a_request_that_waited_too_long_gets_503_with_what_it_waited_for(router, clock):
    transform(router, [0, 1], 2, operation_id="by hand")
    router.report("vote", 1, 1, accept=False, reason="full")
    router.place(request(**LONG, rid="long"))
    clock.time = long_queue.MOST_SECONDS - 1
    router.on_tick()
    router.report("vote", 0, 2, accept=False, reason="full")
    clock.time += 2
    router.front_end.clear()
    router.on_tick()
    [answer] = [one for one in router.front_end if isinstance(one, AbortReq)]
    assert answer.finished_reason["status_code"] == 503
    assert "150 tokens" in answer.finished_reason["message"]


def test_workers_that_refuse_are_left_alone_for_a_while_and_others_are_asked(router, clock):
    router.place(request(**LONG, rid="long"))
    router.on_tick()
    router.report("vote", 1, 1, accept=False, reason="full")
    router.to_workers.clear()
    clock.time += 0.1
    router.on_tick()
    assert orders(router) == [("prepare", (2, 3), 2)]
    router.report("vote", 3, 2, accept=False, reason="full")
    router.to_workers.clear()
    router.on_tick()
    assert router.to_workers == []
    clock.time += 1.0
    router.on_tick()
    assert orders(router) == [("prepare", (0, 1), 2)]
    assert "not tried again for 1 s" in str(state(router)["decisions"])


def test_what_an_operator_has_merged_stays_until_he_splits_it(router, clock):
    transform(router, [0, 1], 2, operation_id="by hand")
    vote(router, 0, 1)
    done(router, 0, 1)
    assert state(router)["pinned"] == [0, 1]
    clock.time += 100
    router.on_tick()
    assert router.operations.running is None
    transform(router, [0, 1], 1, operation_id="by hand again")
    vote(router, 0, 1, epoch=2)
    done(router, 0, 1, epoch=2)
    assert state(router)["pinned"] == []


def test_a_long_request_uses_what_an_operator_has_merged(router, clock):
    transform(router, [2, 3], 2, operation_id="by hand")
    vote(router, 2, 3)
    done(router, 2, 3)
    router.place(request(**LONG, rid="long"))
    assert homes(router, "long") == [2]


def test_a_request_that_a_worker_never_names_does_not_keep_its_instance(router, clock):
    """It was aborted on its way: without a bound the instance would stay merged for ever."""
    merge_for(router, clock)
    clock.time += 31 + LINGER_S
    router.on_tick()
    clock.time += LINGER_S + 0.1
    router.on_tick()
    assert router.operations.running is not None


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
def rules(router):
    made = Rules()
    router.placement.follow_rules(made, router.chain, 1)
    return made


def finish_change(router, epoch, *ranks):
    vote(router, *ranks, epoch=epoch)
    done(router, *ranks, epoch=epoch)


def test_the_rules_are_shown_the_traffic_and_what_steps_cost(router, rules, clock):
    cost = StepCost(0.02, 1e-4, 1e-5, 1e-7, 1e-9)
    degrees = {d: DegreeThroughput(cost, 100 * d, 64 * d) for d in (1, 2, 4)}
    router.calibration = Calibration(router.capacity, 64, ThroughputTable(degrees, 0.5))
    for number in range(6):
        router.place(request(rid=f"short-{number}"))
    clock.time += 2.0
    router.on_tick()
    [scene] = rules.scenes
    assert scene.table.degrees[2].cost == cost and scene.table.degrees[2].kv_tokens == 260
    [kind] = scene.traffic
    assert (kind.degree, kind.prompt_tokens, kind.output_tokens) == (1, 10, 4)
    assert scene.evidence == pytest.approx(6, rel=0.1)
    clock.time += 0.5
    router.on_tick()
    assert len(rules.scenes) == 1


def test_instances_follow_the_base_degree_and_what_it_holds_is_no_longer_long(router, rules, clock):
    router.place(request(**LONG, rid="waits"))
    assert homes(router, "waits") == []
    rules.wanted = 2
    router.on_tick()
    assert state(router)["base_degree"] == 2
    finish_change(router, 1, 0, 1)
    clock.time += 0.1
    router.on_tick()
    assert homes(router, "waits") == [0]
    finish_change(router, 2, 2, 3)
    router.place(request(**LONG, rid="next"))
    assert homes(router, "next") in ([0], [2])
    made = [one["decision"] for one in state(router)["decisions"]]
    assert "the base degree becomes 2" in made and "ranks [2, 3] to degree 2" in made
    reasons = [one["reason"] for one in state(router)["history"]]
    assert reasons == ["to the base degree"] * 2


def test_an_operator_releases_what_is_at_the_base_degree_already(router, rules, clock):
    """Nothing changed then, so nobody was told, and the ranks stayed pinned for ever."""
    transform(router, [0, 1], 2, operation_id="by hand")
    finish_change(router, 1, 0, 1)
    assert state(router)["pinned"] == [0, 1]
    rules.wanted = 2
    router.on_tick()
    finish_change(router, 2, 2, 3)
    transform(router, [0, 1], 2, operation_id="release")
    assert router.operations.history[-1]["outcome"] == "unchanged"
    assert state(router)["pinned"] == []
