"""What an audited worker asserts and logs about itself."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sglang.srt.managers.scheduler import Scheduler

from amoeba_sglang.adapters.model.kv_pool import ElasticKVPool
from amoeba_sglang.adapters.worker.scheduler import ElasticScheduler
from amoeba_sglang.adapters.worker.turn import Turn
from amoeba_sglang.control.shares.news import SlotNews
from amoeba_sglang.control.transform.boundary import Boundary
from amoeba_sglang.control.worker import protocol
from tests.adapters.worker.runtimes import Workers
from tests.serving.audited import worker as module
from tests.serving.audited.audit import audit
from tests.serving.audited.worker import AuditedScheduler, AuditedTurn


@pytest.fixture
def anchor():
    """A worker with grown slots, a short and a long request, and two tokens in its cache."""
    pair = Workers()
    pair.change((1, 1), (2, 2))
    scheduler = pair[0]
    tree = scheduler.tree_cache
    tree.slots = torch.from_numpy(scheduler.token_to_kv_pool_allocator.take_own(2))
    tree.all_values_flatten = lambda: tree.slots
    scheduler.short, scheduler.long = scheduler.admit(4, prompt=2), scheduler.admit(14, prompt=8)
    return scheduler


def test_a_worker_at_work_is_clean(anchor):
    assert audit(anchor, (None, None)) == []
    assert anchor.runtime.slots.extra.free_count == 0


def test_slots_of_nobody_and_of_two_are_found(anchor):
    allocator, table = anchor.token_to_kv_pool_allocator, anchor.req_to_token_pool.req_to_token
    lost = int(allocator.take_own(1)[0])
    [problem] = audit(anchor, ())
    assert problem == f"slot {lost}: no owner (leaked)"
    shared = int(table[anchor.short.kv.req_pool_idx, 0])
    table[anchor.long.kv.req_pool_idx, 7] = shared
    problems = audit(anchor, ())
    assert any(f"slot {shared}: more than one owner" in problem for problem in problems)
    assert any(anchor.short.rid in problem and anchor.long.rid in problem for problem in problems)


def test_what_the_cache_has_of_a_request_is_not_the_request_s(anchor):
    req, tree = anchor.short, anchor.tree_cache
    row = anchor.req_to_token_pool.req_to_token[req.kv.req_pool_idx]
    tree.slots = torch.cat([tree.slots, row[:1].long()])
    assert audit(anchor, ()) != []
    req.kv.cache_protected_len = 1
    assert audit(anchor, ()) == []


def test_tokens_that_move_still_have_their_slots(anchor):
    req = anchor.long
    row = anchor.req_to_token_pool.req_to_token[req.kv.req_pool_idx]
    req.finished = lambda: True
    kv_row = row[:8].clone()
    kept = anchor.token_to_kv_pool_allocator.prepare_checkpoint(req, kv_row)
    moves = anchor.runtime.slots.moves
    assert kept and len(moves.source) > 0
    # The cache owns where they go, and the rest of the row is free.
    tree = anchor.tree_cache
    tree.slots = torch.cat([tree.slots, kv_row[:kept].long()])
    anchor.running_batch.reqs.remove(req)
    anchor.token_to_kv_pool_allocator.free(row[kept:8].long())
    assert audit(anchor, ()) == []
    moves.clear()
    assert audit(anchor, ()) != []


def test_an_audit_that_fails_stops_the_worker(monkeypatch):
    monkeypatch.setattr(module, "audit", lambda scheduler, planned: [f"{planned} is wrong"])
    with pytest.raises(AssertionError, match=r"slot audit failed:\n\('batch',\) is wrong"):
        module.check("worker", "batch")
    monkeypatch.setattr(module, "audit", lambda scheduler, planned: [])
    module.check("worker", "batch")


@pytest.mark.parametrize(("layers", "b"), [(range(0), 8), (range(6, 8), 6)])
def test_a_joint_step_is_logged_with_the_b_that_it_runs_with(caplog, layers, b):
    under_way = SimpleNamespace(
        order=SimpleNamespace(before=[1, 1], after=[2, 2]),
        boundary=Boundary.at_start(8, falls=True),
        layers=layers,
    )
    with caplog.at_level(logging.INFO):
        module.log_step(under_way, {"arrived": 2})
    expected = f'{{"b": {b}, "before": [1, 1], "after": [2, 2], "arrived": 2}}'
    assert caplog.messages == [f"joint step {expected}"]


def test_slots_that_change_hands_are_logged(caplog):
    lent, moved = np.array([3, 4]), np.array([7])
    with caplog.at_level(logging.INFO):
        module.log_slots(SlotNews(), changing=False)
        module.log_slots(SlotNews(lent=lent), changing=False)
        module.log_slots(SlotNews(moved_from=moved, moved_to=moved), changing=True)
    assert caplog.messages == [
        'slots change hands {"lent": 2, "returned": 0, "moved to stay cached": 0}',
        'slots change hands {"lent": 0, "returned": 0, "relocated": 1}',
    ]


@pytest.mark.parametrize(
    ("fields", "says"),
    [({}, True), ({"degree": 2}, False), ({"idle": False}, False), ({"emulated": True}, False)],
)
def test_digests_are_taken_of_a_worker_that_is_alone_and_idle(monkeypatch, caplog, fields, says):
    given = {"degree": 1, "idle": True, "emulated": False, **fields}
    pool = None if given["emulated"] else ElasticKVPool.__new__(ElasticKVPool)
    plane = SimpleNamespace(executor=SimpleNamespace(layers="layers"))
    worker = SimpleNamespace(
        runtime=SimpleNamespace(degree=given["degree"], plane=plane),
        token_to_kv_pool_allocator=SimpleNamespace(get_kvcache=lambda: pool),
        is_fully_idle=lambda: given["idle"],
    )
    monkeypatch.setattr(module, "live_slots", lambda allocator: np.array([1, 2]))
    monkeypatch.setattr(module, "digest", lambda layers, pool, live: ("a", "b"))
    with caplog.at_level(logging.INFO):
        module.log_digest("before", worker)
    assert caplog.messages == (["digest before: 2 slots kv a weights b"] if says else [])


class Steps(AuditedTurn):
    """Of a transformation that has an effect a call; `done`: what came of it, in order."""

    def __init__(self, done, records=()):
        self._scheduler = SimpleNamespace(step_events={"arrived": 1})
        self._runtime = SimpleNamespace(
            index=1,
            executor=SimpleNamespace(synchronize=lambda: done.append("synchronize")),
            exchange=lambda *args: list(records),
        )
        self._batch, self._planned, self.requests = None, ("batch",), None


@pytest.fixture
def noted(monkeypatch):
    done = []
    monkeypatch.setattr(module, "check", lambda scheduler, *planned: done.append(planned))
    monkeypatch.setattr(module, "log_digest", lambda when, scheduler: done.append(when))
    monkeypatch.setattr(module, "log_step", lambda under_way, events: done.append(events))
    monkeypatch.setattr(module, "log_slots", lambda slots, changing: done.append((slots, changing)))
    monkeypatch.setattr(Turn, "_enter", lambda self, order, since: done.append("entered"))
    monkeypatch.setattr(Turn, "_report", lambda self, under_way, ended: done.append("reported"))
    return done


def test_slots_are_checked_before_a_change_begins_and_after_every_move(noted):
    turn = Steps(noted)
    turn._do(protocol.Enter("order", 1.0))
    assert noted == ["synchronize", ("batch",), "before", "entered"]
    noted.clear()
    turn._report("under way", ended=False)
    turn._report("under way", ended=True)
    events = {"arrived": 1}
    assert noted == [("batch",), events, "reported", ("batch",), events, "after", "reported"]


def test_what_this_worker_told_of_slots_is_logged(noted):
    records = [SimpleNamespace(slots="of rank 0"), SimpleNamespace(slots="of rank 1")]
    effect = protocol.Exchange(epoch=1, step=2, has_work=True, ready=5)
    assert Steps(noted, records)._do(effect) == records
    assert noted == [("of rank 1", True)]


class Idle(AuditedScheduler):
    def __init__(self, sleeps, idle):
        plane = SimpleNamespace(rest=lambda: None)
        self.runtime = SimpleNamespace(plane=plane, may_sleep=lambda: sleeps)
        self.is_fully_idle = lambda: idle


@pytest.mark.parametrize(("sleeps", "idle"), [(True, True), (True, False), (False, True)])
def test_an_idle_worker_is_audited_when_no_peer_waits_for_it(monkeypatch, noted, sleeps, idle):
    monkeypatch.setattr(Scheduler, "on_idle", lambda self: noted.append("slept"))
    Idle(sleeps, idle).on_idle()
    assert noted == ([] if not sleeps else [(), "slept"] if idle else ["slept"])


def test_a_step_notes_what_has_happened_to_requests(monkeypatch):
    worker = AuditedScheduler.__new__(AuditedScheduler)
    seen = []
    monkeypatch.setattr(
        module, "Requests", lambda scheduler, planned: SimpleNamespace(live=["live", *planned])
    )
    monkeypatch.setattr(
        ElasticScheduler, "step_with_peers", lambda self, *planned: seen.append(planned)
    )
    worker._request_events = SimpleNamespace(since_last_step=lambda *args: {"arrived": args})
    worker.step_with_peers("batch", "running")
    assert worker.step_events == {"arrived": (["live", "batch", "running"], "batch")}
    assert seen == [("batch", "running")]
