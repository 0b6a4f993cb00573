"""The last request of a batch waits for its slots, and upstream looks again when there are some."""

from types import SimpleNamespace

import pytest
from sglang.srt.managers.scheduler import Scheduler

from amoeba_sglang.adapters.worker.scheduler import ElasticScheduler
from tests.adapters.model.allocators import request


class Batch:
    """Of requests that need a slot each; `held` of them become free with each retracted one."""

    def __init__(self, count, free, held):
        self.reqs = [request(5) for _ in range(count)]
        self.free, self.held = free, held
        self.released = []

    def is_empty(self):
        return not self.reqs

    def check_decode_mem(self, selected=None):
        wanted = len(self.reqs) if selected is None else len(selected)
        return wanted <= self.free

    def _get_decode_retraction_order(self, reqs):
        return list(range(len(reqs)))

    def release_req(self, index, left):
        self.released.append(self.reqs[index])
        self.free += self.held

    def filter_batch(self, keep_indices):
        self.reqs = [self.reqs[index] for index in keep_indices]


class Planner(ElasticScheduler):
    """An ElasticScheduler without anything around it."""

    def __init__(self, alone=False, grew=False):
        slots = SimpleNamespace(is_alone=alone, take_growth=lambda: grew)
        self.runtime = SimpleNamespace(
            slots=slots, step_clock=SimpleNamespace(tick=lambda *args: None)
        )
        self.clock = SimpleNamespace(sleep=lambda seconds: None)
        self.expert_recorder = None
        self.queue, self.waiting_queue, self.first_seen = [], [], None

    def _reqs_finishing_inflight(self, batch):
        return []

    def _add_request_to_queue(self, req, is_retracted=False):
        assert is_retracted
        self.queue.append(req)

    def must_wait(self, running_batch, last_batch):
        return True

    def step_with_peers(self, batch, running_batch):
        pass


@pytest.fixture
def planned(monkeypatch):
    """Batches as upstream gets them."""
    seen = []
    monkeypatch.setattr(
        Scheduler, "update_running_batch", lambda self, batch: seen.append(list(batch.reqs))
    )
    return seen


@pytest.mark.parametrize(
    ("count", "free", "held", "kept"), [(1, 0, 0, 0), (3, 0, 0, 0), (3, 0, 1, 1), (1, 1, 0, 1)]
)
def test_the_last_request_is_retracted_where_upstream_would_abort_it(
    planned, count, free, held, kept
):
    """ "Out of memory even after retracting all other requests", and its peer's pool was empty."""
    planner, batch = Planner(), Batch(count, free, held)
    every = batch.reqs
    planner.update_running_batch(batch)
    assert planned == [every[:kept]]
    assert planner.queue == batch.released == every[kept:][::-1]


@pytest.mark.parametrize(("alone", "free"), [(True, 0), (False, 1)])
def test_what_upstream_can_do_by_itself_is_left_to_it(planned, alone, free):
    planner, batch = Planner(alone), Batch(2, free, 0)
    planner.update_running_batch(batch)
    assert planned == [batch.reqs] and len(batch.reqs) == 2
    assert not planner.queue


@pytest.mark.parametrize("grew", [True, False])
def test_the_queue_is_looked_at_again_when_there_is_more_room(grew):
    """Upstream did only when a running request had ended, minutes later."""
    running = SimpleNamespace(batch_is_full=True, reqs=[])
    Planner(grew=grew).get_next_batch_to_run(running, None)
    assert running.batch_is_full == (not grew)


def test_the_queue_is_looked_at_again_when_the_first_one_leaves_it():
    """A long request for which memory was full was aborted; one that fits waited behind it."""
    planner = Planner()
    running = SimpleNamespace(batch_is_full=False, reqs=[])
    planner.waiting_queue = ["long", "short"]
    planner.get_next_batch_to_run(running, None)
    running.batch_is_full = True
    planner.get_next_batch_to_run(running, None)
    assert running.batch_is_full, "nothing has changed"
    del planner.waiting_queue[0]
    planner.get_next_batch_to_run(running, None)
    assert not running.batch_is_full
