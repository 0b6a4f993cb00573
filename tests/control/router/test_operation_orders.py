from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.router.effects import Answer, End, Order
from tests.control.router.operations import done, make, request, vote
from tests.control.router.values import CHAIN


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
            self.stuck = self.stuck or isinstance(effect, End)

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
            reason = "" if accept else "no"
            self.take(vote(self.operations, rank, order.epoch, reason, self.now))

    @precondition(lambda self: self.orders and not self.stuck)
    @rule(rank=st.integers(0, 3), error=st.sampled_from(["", "", "", "no more mappings"]))
    def done(self, rank, error):
        order = self.orders[-1]
        if order.phase == "commit" and rank in order.ranks:
            self.take(done(self.operations, rank, order.epoch, self.now, error=error))

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
            if record.outcome == "done":
                layout = layout.change(CHAIN, record.ranks, record.degree)
        assert layout == self.operations.layout


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
