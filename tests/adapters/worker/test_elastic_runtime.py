"""The elastic state of a worker: what it may do, tells, measures and copies."""

import numpy as np
import pytest

from amoeba_sglang.control.shares.news import SlotNews
from amoeba_sglang.control.worker.protocol import Exchange, State
from tests.adapters.model.allocators import SIZE
from tests.adapters.worker.runtimes import GROWN, Batch, Workers


@pytest.fixture
def pair():
    return Workers()


def merged():
    pair = Workers()
    pair.change((1, 1), (2, 2))
    return pair


def test_a_worker_that_starts_has_its_own_slots_and_no_peer(pair):
    runtime = pair[1].runtime
    assert runtime.degree == 1 and runtime.protocol.state is State.ALONE
    assert runtime.slots.is_alone and runtime.slots_beyond(1) == 0
    assert not runtime.must_wait(pair[1].requests())
    assert runtime.verdict == ""


def test_a_ring_for_an_earlier_instance_wakes_nobody(pair):
    runtime = pair[0].runtime
    runtime.bell.tags.add((1, 5))
    assert runtime.may_sleep()
    assert runtime.bell.tags == set(), "the poller would wake for it for ever"


def test_what_an_anchor_may_promise_beyond_its_own_slots():
    four = Workers((1, 2, 4))
    anchor, second = four[0].runtime, four[2].runtime
    assert anchor.slots_beyond(2) == GROWN + SIZE
    assert anchor.slots_beyond(4) == 3 * GROWN + 3 * SIZE
    # Rank 2 is an anchor at degree 2 only; during a change the fewer count.
    assert second.slots_beyond(2) == GROWN + SIZE and second.slots_beyond(4) == 0
    assert anchor.slots_beyond(2, 4) == GROWN + SIZE and second.slots_beyond(2, 4) == 0


def test_it_begins_late_by_what_its_clock_says(pair, monkeypatch):
    runtime, started = pair[0].runtime, []
    monkeypatch.setattr(runtime.step_clock, "start_late", lambda: started.append(True))
    monkeypatch.setattr(runtime.step_clock, "delay", lambda ranks: 0.0)
    runtime.approach((1,))
    assert runtime.clock.slept == [] == started
    monkeypatch.setattr(runtime.step_clock, "delay", lambda ranks: 0.25)
    runtime.approach((1,))
    assert runtime.clock.slept == [0.25] and started == [True]


def test_only_an_anchor_that_changes_looks_for_a_refuge():
    pair = merged()
    req = pair[0].admit(6, prompt=5)
    pair.hear("prepare", (2, 2), (1, 1))
    anchor, other = (scheduler.runtime for scheduler in pair)
    assert anchor.slots.has_voted and not other.slots.has_voted
    assert not anchor.must_wait(pair[0].requests())
    pair.hear("abort", (2, 2), (1, 1))
    assert not anchor.slots.has_voted
    pair[0].end(req)


def test_the_first_worker_of_an_instance_alone_measures_its_steps():
    pair = merged()
    req = pair[1].admit(8, prompt=3)
    for _ in range(2):
        pair.turn(None, Batch([req]))
    anchor, other = (scheduler.runtime for scheduler in pair)
    # From one launch to the next: a step of degree 2 with the row of the peer.
    anchor.clock.time += 5.0
    assert list(anchor.meter.take()) == [2]
    other.clock.time += 5.0
    assert other.meter.take() is None


def test_a_worker_alone_measures_its_own(pair):
    req = pair[1].admit(8, prompt=3)
    for batch in (Batch([req], [3]), Batch([req]), None):
        pair[1].runtime.run_or_follow(batch, None)
    pair[1].runtime.clock.time += 5.0
    assert pair[1].runtime.meter.take()[1].steps == 1


def test_a_record_says_what_is_computed_and_where_b_is():
    pair = merged()
    req = pair[0].admit(8, prompt=4)
    batch = Batch([req], [4])
    batch.return_logprob = True
    step = Exchange(epoch=7, step=3, has_work=True, ready=9)
    record = pair[0].runtime._describe(batch, step, SlotNews())
    assert (record.epoch, record.step, record.first_rank, record.order) == (7, 3, 0, 9)
    assert (record.boundary, record.extend, record.scores_prompts) == (-1, True, True)
    [row] = record.rows
    assert (row.row, row.seq_len, row.extend_len, row.known) == (req.kv.req_pool_idx, 4, 4, 0)
    # Of rows that decode only the new slot is told, and no logits of prompts are wanted.
    req.kv.kv_allocated_len = 5
    record = pair[0].runtime._describe(Batch([req]), step, SlotNews())
    assert (record.extend, record.scores_prompts, record.rows[0].known) == (False, False, 4)


def test_rows_that_are_gone_are_told_once():
    pair = merged()
    req = pair[0].admit(8, prompt=4)
    pair.turn(Batch([req], [4]), None)
    pair[0].end(req)
    step = Exchange(epoch=1, step=9, has_work=False, ready=0)
    runtime = pair[0].runtime
    assert runtime._describe(None, step, SlotNews()).dead_rows == (req.kv.req_pool_idx,)
    assert runtime._describe(None, step, SlotNews()).dead_rows == ()


def test_a_new_instance_knows_nobody_s_rows():
    pair = merged()
    req = pair[0].admit(8, prompt=4)
    pair.turn(Batch([req], [4]), None)
    runtime = pair[0].runtime
    assert len(runtime.ledger) == 1
    runtime.join(5, (0, 1))
    assert len(runtime.ledger) == 0
    with pytest.raises(KeyError):
        runtime.executor.mirrors[0].slots(req.kv.req_pool_idx, 4)
    assert runtime.groups.transports[2].phase == "the joint steps of epoch 5"


def test_moved_tokens_are_copied_by_everybody_in_joint_slots(monkeypatch):
    pair = merged()
    done = []
    monkeypatch.setattr(pair[0].token_to_kv_pool_allocator, "finish_moves", lambda: done.append(0))
    monkeypatch.setattr(pair[1].token_to_kv_pool_allocator, "finish_moves", lambda: done.append(1))
    # From the first grown slots of the anchor to own ones.
    news = SlotNews(moved_from=np.array([SIZE + 1, SIZE + 2]), moved_to=np.array([3, 4]))
    for scheduler in pair:
        scheduler.runtime._copy_moved(SlotNews())
        scheduler.runtime._copy_moved(news)
        first_grown = 2 * (SIZE + 1)
        expected = ([first_grown, first_grown + 1], [6, 8])
        assert scheduler.runtime.plane.copied == [expected]
    assert done == [0]


def test_workers_that_disagree_about_the_step_stop_with_a_message():
    pair = merged()
    pair[1].runtime.protocol.epoch += 1
    pair[0].runtime.protocol.asleep = pair[1].runtime.protocol.asleep = False
    with pytest.raises(AssertionError, match="workers disagree about the joint step"):
        pair.turn()


def test_nothing_is_said_of_slots_while_there_is_nothing_to_say():
    pair = merged()
    pair[0].admit(6, prompt=2)
    runtime = pair[0].runtime
    assert runtime._claims_if_any(pair[0].requests()) is None
    assert not runtime.has_news(pair[0].requests())
    pair[0].admit(SIZE + 3, prompt=2)
    claims = runtime._claims_if_any(pair[0].requests())
    assert [claim.long for claim in claims.live] == [False, True]


def test_a_transformation_that_ends_gives_its_time_and_the_new_seat():
    pair = Workers()
    pair.hear("prepare", (1, 1), (2, 2))
    pair.hear("commit", (1, 1), (2, 2))
    pair.turn()
    runtime = pair[0].runtime
    assert runtime.slots.seat is None and runtime.slots.beyond == 0
    boundaries = []
    while runtime.transformation is not None:
        boundaries.append(runtime.transformation.boundary.b)
        pair.turn()
    assert boundaries == [4, 3, 2]
    assert runtime.slots.seat.degree == 2
    assert runtime.slots_beyond(2) == GROWN + SIZE
