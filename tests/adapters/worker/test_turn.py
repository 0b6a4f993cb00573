"""Orders and steps of two and four workers, with real protocol, ledgers and transformations."""

import pytest

from amoeba_sglang.control.reports import Done, Vote
from amoeba_sglang.control.worker.protocol import State
from tests.adapters.model.allocators import SIZE
from tests.adapters.worker.instances import long_request
from tests.adapters.worker.runtimes import GROWN, LAYERS, Batch, Workers


def votes(scheduler):
    return [(one.accept, one.reason) for one in scheduler.sent if isinstance(one, Vote)]


def test_a_merge_and_its_split():
    pair = Workers()
    # In step at once, and then a layer a step; nobody computes before the last of them.
    assert pair.change((1, 1), (2, 2)) == LAYERS
    for rank, scheduler in enumerate(pair):
        runtime = scheduler.runtime
        assert votes(scheduler) == [(True, "")]
        [done] = [one for one in scheduler.sent if isinstance(one, Done)]
        assert (done.rank, done.epoch, done.report.moves) == (rank, 1, LAYERS)
        assert (done.report.kv_bytes, done.report.weight_bytes) == (10 * LAYERS, 5 * LAYERS)
        assert done.report.seconds > done.report.lockstep_seconds > 0
        # While it changes, what is certain at both degrees; then what the new one has.
        assert scheduler.told("follow_capacity") == [((1, 2),), ((2,),)]
        assert [layer.degree for layer in runtime.plane.executor.layers] == [2] * LAYERS
        assert runtime.plane.calls == ["shrink", ("grow", 2)]
        assert runtime.slots.extra.grown == (0 if rank else GROWN)
        # The device must have nothing to run when layers move.
        assert runtime.executor.synchronized == 1 + LAYERS
        # After every move but the last.
        assert len(scheduler.told("report_progress")) == LAYERS - 1
    assert pair.change((2, 2), (1, 1)) == LAYERS + 1
    for scheduler in pair:
        assert scheduler.runtime.protocol.state is State.ALONE
        assert scheduler.told("follow_capacity")[2:] == [((2, 1),), ((1,),)]
        assert scheduler.runtime.slots.is_alone


def test_the_inner_block_stays_while_two_pairs_become_four():
    four = Workers((1, 2, 4))
    four.change((1, 1, 1, 1), (2, 2, 1, 1))
    assert [s.runtime.protocol.ranks for s in four] == [(0, 1), (0, 1), (2,), (3,)]
    four.change((2, 2, 1, 1), (4, 4, 4, 4))
    assert [s.runtime.slots.seat.place for s in four] == [0, 1, 2, 3]
    assert [s.runtime.slots.extra.grown for s in four] == [3 * GROWN, 0, 0, 0]
    four.change((4, 4, 4, 4), (2, 2, 2, 2))
    assert [s.runtime.protocol.ranks for s in four] == [(0, 1), (0, 1), (2, 3), (2, 3)]


def test_rows_are_told_and_run_by_both():
    pair = Workers()
    pair.change((1, 1), (2, 2))
    req = pair[1].admit(8, prompt=3)
    pair.turn(None, Batch([req], [3]))
    pair.turn(None, Batch([req]))
    for scheduler in pair:
        executor = scheduler.runtime.executor
        assert executor.steps == [[(2, 0, LAYERS)]] * 2
        row, slots = req.kv.req_pool_idx, pair[1].req_to_token_pool.req_to_token
        assert executor.mirrors[1].slots(row, 3).tolist() == slots[row, :3].tolist()
    # The next request gets its row.
    pair[1].end(req)
    other = pair[1].admit(5, prompt=2)
    assert other.kv.req_pool_idx == row
    pair.turn(None, Batch([other], [2]))
    for scheduler in pair:
        mirror = scheduler.runtime.executor.mirrors[1]
        assert mirror.slots(row, 2).tolist() == slots[row, :2].tolist()


def test_who_has_work_wakes_the_others():
    pair = Workers()
    pair.change((1, 1), (2, 2))
    pair.turn()
    for scheduler in pair:
        assert scheduler.runtime.protocol.state is State.ASLEEP
        assert scheduler.runtime.may_sleep()
    steps = pair[0].runtime.protocol.step
    pair[1].turn()
    assert pair[1].runtime.protocol.step == steps, "it asked the others though it has nothing"
    req = pair[0].admit(8, prompt=3)
    pair.turn(Batch([req], [3]), None)
    assert [s.runtime.protocol.step for s in pair] == [steps + 1] * 2
    assert not pair[1].runtime.may_sleep()


def test_an_order_that_would_strand_a_request_leaves_nothing_behind():
    pair = Workers()
    pair.change((1, 1), (2, 2))
    req = pair[0].admit(SIZE + 4, prompt=SIZE + 2)
    pair.hear("prepare", (2, 2), (1, 1))
    # It can be nowhere else: refused at once, by name, and nothing of the order is left.
    [(_, reason)] = [vote for vote in votes(pair[0]) if not vote[0]]
    assert req.rid in reason and f"needs up to {SIZE + 4} tokens" in reason
    assert votes(pair[1])[-1] == (True, "")
    pair.hear("abort", (2, 2), (1, 1))
    assert not any(s.runtime.slots.has_voted or len(s.runtime.slots.kept) for s in pair)
    pair[0].end(req)
    assert pair.change((2, 2), (1, 1)) == LAYERS + 1


def test_a_vote_says_why_not():
    pair = Workers()
    pair[1].runtime.plane.why_not = "no pages"
    pair.hear("prepare", (1, 1), (2, 2))
    assert votes(pair[0]) == [(True, "")] and votes(pair[1]) == [(False, "no pages")]
    pair.hear("abort", (1, 1), (2, 2))
    pair.hear("prepare", (2, 2), (1, 1))
    assert votes(pair[0])[-1] == (False, "rank 0 is at degree 1, not 2")


def test_a_request_that_waits_is_asked_for_as_well():
    pair = Workers()
    pair.change((1, 1), (2, 2))
    waits = long_request(SIZE + 1)
    pair[0].waiting_queue.append(waits)
    pair.hear("prepare", (2, 2), (1, 1))
    assert waits.rid in votes(pair[0])[-1][1]
    waits.to_finish = "aborted"
    pair.hear("abort", (2, 2), (1, 1))
    pair.hear("prepare", (2, 2), (1, 1))
    assert votes(pair[0])[-1] == (True, "")


@pytest.mark.parametrize("page", [1, 16])
def test_a_long_request_gets_a_lease_and_its_slots_move_home(page):
    """The whole of a long life: grown slots, leases of the peer, the end, and slots that move."""
    pair = Workers(page=page)
    pair.change((1, 1), (2, 2))
    waits = long_request((SIZE + GROWN + 4) * page)
    pair[0].waiting_queue.append(waits)
    for _ in range(4):
        pair.turn()
    anchor, lender = (scheduler.runtime.slots for scheduler in pair)
    assert len(anchor.extra.leased) == len(lender.lent) > 0
    assert lender.lent.max() <= SIZE
    pair[0].waiting_queue.clear()
    for _ in range(4):
        pair.turn()
    assert not len(anchor.extra.leased) and not len(lender.lent)
    assert len(pair[1].token_to_kv_pool_allocator.get_all_free_pages()) == SIZE
