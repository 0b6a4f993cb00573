"""Whatever happens in whatever order, a desk keeps its promises and answers everybody once."""

import random

import pytest

from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.reports import IdleAnswer
from amoeba_sglang.control.router.cache_flush import ANSWER_SECONDS
from amoeba_sglang.control.router.effects import (
    Answer,
    AskIdle,
    Cancel,
    End,
    Flush,
    Order,
    Refuse,
    RefuseControl,
    Send,
)
from amoeba_sglang.control.router.events import Arrival, FlushAsked, LoadsRead
from amoeba_sglang.control.router.limits import fits
from amoeba_sglang.control.router.loads import Snapshot
from tests.control.router.values import CAPACITY, IN_TURN, WORKERS, Case

STEPS = 400
OWN = CAPACITY.request_tokens(1, anchor=True)
POLICY = {"static": IN_TURN, "amoeba": POLICIES["amoeba"], "round_robin": POLICIES["round_robin"]}


class Walk:
    """Workers that carry out what they are told sooner or later, and report what they have."""

    def __init__(self, policy, seed):
        self.draw = random.Random(seed)
        degree = self.draw.choice([1, 2, 4])
        self.case, self.names = Case(POLICY[policy], layout=(degree,) * WORKERS), 0
        self.came, self.left, self.asked = set(), set(), set()
        # By rank, the tokens of the requests that it has.
        self.living = [{} for _ in range(WORKERS)]
        self.order, self.heard = None, set()
        # By rank, the number of the question that it has yet to answer.
        self.question, self.flushing = {}, False

    def play(self):
        actions = {
            self.arrive: 6, self.end_one: 4, self.abort: 1, self.transform: 3, self.work: 12,
            self.ask_for_a_flush: 1, self.answer: 4, self.wait: 4,
        }  # fmt: skip
        for action in self.draw.choices(list(actions), list(actions.values()), k=STEPS):
            action()
            self.take()
            self.check()

    def settle(self):
        """Workers do what they are told and requests end, for longer than anybody may wait."""
        for turn in range(200):
            while self.question or self.order is not None:
                self.answer()
                self.work()
                self.take()
            for rank in range(WORKERS):
                self.living[rank].clear()
                self.publish(rank)
            self.case.tick(0.5 if turn < 50 else 5.0)
            self.take()

    def take(self):
        """Carry out what was said since the last time."""
        while said := self.case.said:
            self.case.said = []
            for effect in said:
                self.carry_out(effect)
            for rank in range(WORKERS):
                self.report(rank)

    def carry_out(self, effect):
        match effect:
            case Send(rank, request):
                assert not self.question, "a worker that is asked gets nothing"
                operations = self.case.desk.operations
                promised = CAPACITY.promised(operations.layout, operations.target)[rank]
                assert fits(request.prompt_tokens, request.output_tokens, promised)
                self.leave(request.rid)
                self.living[rank][request.rid] = request.tokens
            case Refuse(request) | Cancel(request):
                self.leave(request.rid)
            case Answer(waiter):
                self.asked.remove(waiter)
            case Order():
                assert not self.question
                self.order = None if effect.phase == "abort" else effect
                self.heard = set()
            case AskIdle(number):
                self.question = dict.fromkeys(range(WORKERS), number)
            case Flush() | RefuseControl():
                self.question, self.flushing = {}, False
            case End():
                raise AssertionError(effect.reason)

    def leave(self, rid):
        assert rid in self.came - self.left, "answered twice"
        self.left.add(rid)

    def check(self):
        desk = self.case.desk
        held = CAPACITY.by_rank(desk.operations.layout)
        for most, here in zip(held, self.living, strict=True):
            assert all(tokens <= most for tokens in here.values()), "its layout was taken away"
        later = sum(isinstance(event, Arrival) for event in desk._later)
        assert len(self.came - self.left) == desk.books.waiting + later, "somebody is forgotten"

    def new_name(self, kind):
        self.names += 1
        return f"{kind}{self.names}"

    def arrive(self):
        rid = self.new_name("r")
        self.came.add(rid)
        prompt = self.draw.choice([10, 60, 93, 94, 150, 240, 300, 590, 700])
        rank = self.draw.choice([None] * 8 + list(range(-1, WORKERS + 1)))
        self.case.arrive(prompt=prompt, output=self.draw.randint(1, 20), rank=rank, rid=rid)

    def abort(self):
        if self.came:
            rid = self.draw.choice(sorted(self.came))
            self.case.abort(rid)
            if not self.question:
                for here in self.living:
                    here.pop(rid, None)

    def end_one(self):
        rank = self.draw.randrange(WORKERS)
        if self.living[rank]:
            self.living[rank].pop(self.draw.choice(list(self.living[rank])))
        self.publish(rank)

    def publish(self, rank):
        self.case.tell(LoadsRead([Snapshot(rank, self.case.now, len(self.living[rank]))]))
        self.report(rank)

    def report(self, rank):
        longs = [rid for rid, tokens in self.living[rank].items() if tokens > OWN]
        self.case.longs_here(rank, *longs)

    def transform(self):
        ranks = self.draw.choice([(0, 1), (2, 3), (0, 1, 2, 3)])
        waiter = self.new_name("w")
        self.asked.add(waiter)
        self.case.transform(ranks, self.draw.choice([1, 2, 4]), self.new_name("op"), waiter)

    def work(self):
        """The next worker votes, or ends its part."""
        order = self.order
        if order is None:
            return
        rank = next(rank for rank in order.ranks if rank not in self.heard)
        self.heard.add(rank)
        fails = self.draw.random() < 0.05
        if order.phase == "prepare" and fails:
            self.case.refuse(rank, order.epoch)
        elif order.phase == "prepare":
            self.case.vote(rank, epoch=order.epoch)
        else:
            if self.heard == set(order.ranks):
                self.order = None
            self.case.done(rank, epoch=order.epoch, error="no memory" if fails else "")

    def ask_for_a_flush(self):
        if not self.flushing:
            self.flushing = True
            self.case.tell(FlushAsked(1.0))

    def answer(self):
        if self.question:
            rank, number = self.question.popitem()
            idle = not self.living[rank]
            self.case.tell(IdleAnswer(rank=rank, number=number, idle=idle))

    def wait(self):
        seconds = self.draw.choice([0.01, 0.1, 0.5, 3.0])
        if seconds > ANSWER_SECONDS:
            # It is too late to answer.
            self.question = {}
        self.case.tick(seconds)


@pytest.mark.parametrize("policy", POLICY)
@pytest.mark.parametrize("seed", range(15))
def test_any_history(policy, seed):
    walk = Walk(policy, seed)
    walk.play()
    walk.settle()
    assert walk.asked == set() and not walk.flushing
    assert walk.came == walk.left
