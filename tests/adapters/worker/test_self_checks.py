"""What a worker asserts and logs about itself when tests ask for it."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from amoeba_sglang.adapters.worker import self_checks
from amoeba_sglang.adapters.worker.audit import audit
from amoeba_sglang.adapters.worker.self_checks import SelfChecks
from amoeba_sglang.control.transform.boundary import Boundary
from tests.adapters.worker.runtimes import Workers


@pytest.fixture
def anchor():
    """A worker with grown slots, a short and a long request, and two tokens in its cache."""
    pair = Workers()
    pair.change((1, 1), (2, 2))
    scheduler = pair[0]
    tree = scheduler.tree_cache
    tree.slots = scheduler.token_to_kv_pool_allocator.take_own(2)
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


class Worker(SelfChecks):
    def __init__(self, audits=True, degree=1, idle=True, digests=("a", "b")):
        self.audits, self.step_events = audits, {"arrived": 2}
        plane = SimpleNamespace(digest=lambda live: digests)
        self.runtime = SimpleNamespace(degree=degree, plane=plane)
        self.token_to_kv_pool_allocator, self.is_fully_idle = None, lambda: idle


def test_an_audit_that_fails_stops_the_worker(monkeypatch):
    monkeypatch.setattr(self_checks, "audit", lambda scheduler, planned: [f"{planned} is wrong"])
    Worker(audits=False).check("batch")
    with pytest.raises(AssertionError, match=r"slot audit failed:\n\('batch',\) is wrong"):
        Worker().check("batch")
    monkeypatch.setattr(self_checks, "audit", lambda scheduler, planned: [])
    Worker().check("batch")


@pytest.mark.parametrize(("layers", "b"), [(range(0), 8), (range(6, 8), 6)])
def test_a_joint_step_is_logged_with_the_b_that_it_runs_with(caplog, layers, b):
    under_way = SimpleNamespace(
        order=SimpleNamespace(before=[1, 1], after=[2, 2]),
        boundary=Boundary.at_start(8, falls=True),
        layers=layers,
    )
    with caplog.at_level(logging.INFO):
        Worker(audits=False).log_step(under_way)
        Worker().log_step(under_way)
    expected = f'{{"b": {b}, "before": [1, 1], "after": [2, 2], "arrived": 2}}'
    assert caplog.messages == [f"joint step {expected}"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, True),
        ({"audits": False}, False),
        ({"degree": 2}, False),
        ({"idle": False}, False),
        ({"digests": None}, False),
    ],
)
def test_digests_are_taken_of_a_worker_that_is_alone_and_idle(monkeypatch, caplog, fields, says):
    monkeypatch.setattr(self_checks, "live_slots", lambda allocator: np.array([1, 2]))
    with caplog.at_level(logging.INFO):
        Worker(**fields).log_digest("before")
    assert caplog.messages == (["digest before: 2 slots kv a weights b"] if says else [])
