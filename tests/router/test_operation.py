from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from amoeba_sglang.layout.partition import Layout
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.router.effects import Answer, Finished, Order, Stuck
from amoeba_sglang.router.operation import HISTORY_SIZE, Operations
from amoeba_sglang.router.transform_request import TransformRequest

CHAIN = DegreeChain((1, 2, 4))
REPORT = {
    "error": "",
    "lockstep_seconds": 0.1,
    "longest_step_seconds": 0.2,
    "step_seconds": 0.05,
    "bytes_moved": {"kv": 10, "weights": 1},
}


def make(degree: int = 1) -> Operations:
    return Operations(CHAIN, Layout.uniform(4, degree), 30, 20.0, 120.0)


def request(ranks, degree, operation_id="op", wait=True) -> TransformRequest:
    return TransformRequest(tuple(ranks), degree, operation_id, wait)


def perform(operations: Operations, ranks, degree, operation_id="op", now=0.0):
    """Run one operation to its end; returns all effects and the epoch."""
    effects = operations.submit(request(ranks, degree, operation_id), "w", now)
    epoch = effects[0].epoch
    for rank in ranks:
        effects += operations.vote(rank, epoch, True, "", now + 1)
    for rank in ranks:
        effects += operations.done(rank, epoch, REPORT, now + 3)
    return effects, epoch


def only(effects, kind):
    return [effect for effect in effects if isinstance(effect, kind)]


def test_a_merge_runs_through_both_phases():
    operations = make()
    effects = operations.submit(request([0, 1], 2), "w", 10.0)
    assert effects == [Order("prepare", "op", 1, (0, 1), (1, 1), (2, 2))]
    assert operations.running == {
        "operation_id": "op",
        "kind": "merge",
        "phase": "prepare",
        "boundary": 30,
        "layers": 30,
    }
    assert operations.vote(0, 1, True, "", 10.1) == []
    assert operations.vote(1, 1, True, "", 10.2) == [
        Order("commit", "op", 1, (0, 1), (1, 1), (2, 2))
    ]
    assert operations.layout.degrees == (1, 1, 1, 1)
    assert operations.done(1, 1, {**REPORT, "longest_step_seconds": 0.7}, 10.3) == []
    finished, answer = operations.done(0, 1, REPORT, 10.5)
    assert operations.layout.degrees == (2, 2, 1, 1)
    assert operations.running is None
    record = finished.record
    assert answer == Answer("w", 200, record)
    assert record["kind"] == "merge"
    assert record["outcome"] == "done"
    assert record["seconds"] == pytest.approx(0.5)
    assert record["prepare_seconds"] == pytest.approx(0.2)
    assert record["longest_step_seconds"] == 0.7
    assert record["bytes_moved"] == {"kv": 20, "weights": 2}
    assert record["instances"] == [[0, 1], [2], [3]]
    assert operations.history == [record]


def test_mixed_layouts_merge_and_kinds_are_named():
    operations = make()
    perform(operations, [0, 1], 2, "a")
    effects, _ = perform(operations, [0, 1, 2, 3], 4, "b")
    assert effects[0].before == (2, 2, 1, 1)
    assert operations.layout.instances == ((0, 1, 2, 3),)
    effects, _ = perform(operations, [0, 1, 2, 3], 2, "c")
    assert only(effects, Finished)[0].record["kind"] == "split"
    assert operations.layout.instances == ((0, 1), (2, 3))
    assert [record["kind"] for record in operations.history] == ["merge", "merge", "split"]


def test_a_refusal_changes_nothing():
    operations = make()
    operations.submit(request([0, 1], 2), "w", 0.0)
    abort, finished, answer = operations.vote(1, 1, False, "rows do not fit", 0.1)
    assert (abort.phase, abort.ranks) == ("abort", (0, 1))
    assert answer.status == 409
    assert answer.body["error"] == "rank 1 refuses: rows do not fit"
    assert finished.record["outcome"] == "refused"
    assert operations.layout.degrees == (1, 1, 1, 1)
    assert operations.vote(0, 1, True, "", 0.2) == []
    effects, epoch = perform(operations, [0, 1], 2, "again")
    assert epoch == 2
    assert only(effects, Answer)[0].status == 200


def test_silence_before_commit_is_a_504():
    operations = make()
    operations.submit(request([2, 3], 2), "w", 0.0)
    operations.vote(3, 1, True, "", 1.0)
    assert operations.tick(19.9) == []
    abort, finished, answer = operations.tick(20.0)
    assert abort.phase == "abort"
    assert answer.status == 504
    assert "ranks [2]" in answer.body["error"]
    assert "20 s" in answer.body["error"]
    assert finished.record["outcome"] == "timeout"
    assert operations.running is None
    assert operations.tick(99.0) == []
    assert operations.vote(2, 1, True, "", 21.0) == []


def test_silence_after_commit_is_the_end():
    operations = make()
    operations.submit(request([0, 1], 2), "w", 0.0)
    for rank in (0, 1):
        operations.vote(rank, 1, True, "", 5.0)
    operations.done(0, 1, REPORT, 6.0)
    assert operations.tick(124.9) == []
    (stuck,) = operations.tick(125.0)
    assert isinstance(stuck, Stuck)
    assert "ranks [1]" in stuck.reason


def test_a_transform_during_a_transform_is_a_409():
    operations = make()
    operations.submit(request([0, 1], 2, "first"), "w", 0.0)
    (answer,) = operations.submit(request([2, 3], 2, "second"), "v", 0.1)
    assert answer.status == 409
    assert "first" in answer.body["error"]
    (answer,) = operations.submit(request([2, 4], 2, "third"), "v", 0.1)
    assert answer.status == 400
    assert "second" not in [record["operation_id"] for record in operations.history]


def test_what_only_the_running_operation_forbids_is_a_409():
    operations = make(degree=4)
    operations.submit(request([0, 1, 2, 3], 1, "split"), "w", 0.0)
    (answer,) = operations.submit(request([0, 1], 2, "next"), "v", 0.1)
    assert answer.status == 409


def test_the_same_id_gets_the_same_result():
    operations = make()
    effects, _ = perform(operations, [0, 1], 2)
    first = only(effects, Answer)[0]
    (again,) = operations.submit(request([0, 1], 2, wait=False), "v", 9.0)
    assert again == Answer("v", 200, first.body)
    (other,) = operations.submit(request([0, 1], 1), "v", 9.0)
    assert other.status == 409
    assert "already stands for ranks [0, 1] and degree 2" in other.body["error"]
    assert operations.layout.degrees == (2, 2, 1, 1)


def test_the_same_id_while_it_runs_waits_for_the_same_answer():
    operations = make()
    operations.submit(request([0, 1], 2), "w", 0.0)
    assert operations.submit(request([0, 1], 2), "v", 0.1) == []
    (other,) = operations.submit(request([2, 3], 2), "x", 0.1)
    assert other.status == 409
    (accepted,) = operations.submit(request([0, 1], 2, wait=False), "y", 0.1)
    assert accepted.status == 202
    effects = operations.vote(0, 1, False, "no", 0.2)
    assert [answer.waiter for answer in only(effects, Answer)] == ["w", "v"]


def test_not_waiting_is_a_202():
    operations = make()
    order, answer = operations.submit(request([0, 1], 2, wait=False), "w", 0.0)
    assert order.phase == "prepare"
    assert answer.status == 202
    assert answer.body["operation_id"] == "op"
    effects = operations.vote(0, 1, False, "no", 0.2)
    assert only(effects, Answer) == []


def test_nothing_to_do_is_a_200():
    operations = make()
    (answer,) = operations.submit(request([0, 1], 1), "w", 0.0)
    assert answer.status == 200
    assert answer.body["outcome"] == "unchanged"


@pytest.mark.parametrize(
    ("ranks", "degree", "field"),
    [
        ([0, 4], 2, "ranks"),
        ([-1, 0], 2, "ranks"),
        ([1, 2], 2, "ranks"),
        ([0, 1, 2], 1, "ranks"),
        ([0, 1], 3, "degree"),
        ([0, 1], 4, "degree"),
        ([0, 1], 0, "degree"),
    ],
)
def test_impossible_layouts_are_a_400(ranks, degree, field):
    operations = make()
    (answer,) = operations.submit(request(ranks, degree), "w", 0.0)
    assert answer.status == 400
    assert field in answer.body["error"]
    assert operations.history == []


def test_a_cut_instance_is_a_400():
    operations = make(degree=4)
    (answer,) = operations.submit(request([0, 1], 1), "w", 0.0)
    assert answer.status == 400


def test_the_history_is_bounded():
    operations = make()
    for count in range(HISTORY_SIZE + 10):
        operations.submit(request([0, 1], 1, f"op-{count}"), "w", 0.0)
    assert len(operations.history) == HISTORY_SIZE
    assert operations.history[-1]["operation_id"] == f"op-{HISTORY_SIZE + 9}"


class AnyOrder(RuleBasedStateMachine):
    """Requests, votes, reports and time in any order: every waiter is answered exactly once."""

    def __init__(self):
        super().__init__()
        self.operations, self.now, self.sent = make(), 0.0, 0
        self.waiting, self.answered, self.orders = set(), [], []
        self.stuck = False

    def take(self, effects):
        for effect in effects:
            if isinstance(effect, Answer):
                self.answered.append(effect.waiter)
                self.waiting.discard(effect.waiter)
            elif isinstance(effect, Order):
                self.orders.append(effect)
            self.stuck = self.stuck or isinstance(effect, Stuck)

    @precondition(lambda self: not self.stuck)
    @rule(
        ranks=st.sampled_from([(0,), (0, 1), (2, 3), (0, 1, 2, 3), (1, 2), (7,)]),
        degree=st.sampled_from([1, 2, 3, 4]),
        name=st.integers(0, 5),
        wait=st.booleans(),
    )
    def submit(self, ranks, degree, name, wait):
        self.sent += 1
        waiter = f"w{self.sent}"
        self.waiting.add(waiter)
        self.take(
            self.operations.submit(request(ranks, degree, f"op{name}", wait), waiter, self.now)
        )

    @precondition(lambda self: self.orders and not self.stuck)
    @rule(rank=st.integers(0, 3), accept=st.integers(0, 9), late=st.booleans())
    def vote(self, rank, accept, late):
        order = self.orders[-2 if late and len(self.orders) > 1 else -1]
        if rank in order.ranks:
            self.take(self.operations.vote(rank, order.epoch, accept > 0, "no", self.now))

    @precondition(lambda self: self.orders and not self.stuck)
    @rule(rank=st.integers(0, 3))
    def done(self, rank):
        order = self.orders[-1]
        if order.phase == "commit" and rank in order.ranks:
            self.take(self.operations.done(rank, order.epoch, REPORT, self.now))

    @rule(seconds=st.sampled_from([0.1, 25.0, 130.0]))
    def wait(self, seconds):
        if self.stuck:
            return  # the server is ending; a machine without any rule is an error to hypothesis
        self.now += seconds
        self.take(self.operations.tick(self.now))

    @invariant()
    def nobody_is_answered_twice(self):
        assert len(self.answered) == len(set(self.answered))

    @invariant()
    def only_a_running_operation_makes_anyone_wait(self):
        if self.operations.running is None:
            assert not self.waiting

    @invariant()
    def only_done_operations_changed_the_layout(self):
        layout = Layout.uniform(4, 1)
        for record in self.operations.history:
            if record["outcome"] == "done":
                layout = layout.change(CHAIN, record["ranks"], record["degree"])
        assert layout == self.operations.layout


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
