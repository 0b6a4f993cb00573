"""Workers that take turns in any order agree on every step, order and layout."""

from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.worker import protocol
from amoeba_sglang.control.worker.protocol import State, WorkerProtocol

LAYERS = 3


@dataclass(frozen=True)
class Order:
    phase: str
    epoch: int
    ranks: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Record:
    has_work: bool
    order: int


def run(steps, answers):
    """Drive one generator with canned answers by kind of effect; the effects in order."""
    effects, sent = [], None
    while True:
        try:
            effect = steps.send(sent)
        except StopIteration:
            return effects
        effects.append(effect)
        answer = answers.get(type(effect).__name__)
        sent = answer(effect) if callable(answer) else answer


def kinds(effects):
    return [type(effect).__name__ for effect in effects]


MERGE = Order("prepare", 1, (0, 1), (1, 1), (2, 2))


def committed(rank=0):
    """A worker that has voted yes and has been told COMMIT."""
    worker = WorkerProtocol(rank)
    run(worker.receive(MERGE, 0.0), {"Consider": ""})
    run(worker.receive(replace(MERGE, phase="commit"), 1.0), {})
    return worker


def records(*orders):
    return lambda effect: [Record(True, order) for order in orders]


def test_a_worker_alone_only_runs():
    worker = WorkerProtocol(3)
    assert run(worker.turn(True), {}) == [protocol.Run(None)]
    assert worker.state is State.ALONE


def test_a_vote_waits_for_the_verdict_and_is_cast_once():
    worker = WorkerProtocol(0)
    assert kinds(run(worker.receive(MERGE, 0.0), {"Consider": None})) == ["Consider"]
    assert kinds(run(worker.turn(True), {"AskVerdict": None})) == ["AskVerdict", "Run"]
    effects = run(worker.turn(True), {"AskVerdict": ""})
    assert protocol.Vote(MERGE, "") in effects
    # The next planned step may begin late, once.
    assert kinds(run(worker.turn(True), {})) == ["Approach", "Run"]
    assert kinds(run(worker.turn(True), {})) == ["Run"]


@pytest.mark.parametrize("verdict", ["no room", None])
def test_what_is_refused_or_taken_back_leaves_nothing(verdict):
    worker = WorkerProtocol(0)
    effects = run(worker.receive(MERGE, 0.0), {"Consider": verdict})
    if verdict is None:
        effects += run(worker.receive(replace(MERGE, phase="abort"), 0.1), {})
    assert effects.count(protocol.StandDown()) == 1
    assert run(worker.turn(True), {}) == [protocol.Run(None)]
    assert kinds(run(worker.receive(replace(MERGE, epoch=2), 1.0), {"Consider": ""})) == [
        "Consider",
        "Vote",
    ]


def test_limits_are_those_of_both_degrees_from_the_meeting_until_the_change_is_over():
    worker = committed()
    answers = {"MayMeet": True, "Advance": None, "Exchange": records(0, 0)}
    effects = run(worker.turn(True), answers)
    assert [e.degrees for e in effects if isinstance(e, protocol.Limits)] == [(1, 2)]
    assert worker.state is State.CHANGING
    effects = run(worker.turn(True), {**answers, "Advance": 2})
    assert [e.degrees for e in effects if isinstance(e, protocol.Limits)] == [(2,)]
    assert worker.state is State.MERGED


def test_a_worker_that_defers_runs_its_step_and_tells_nobody_that_it_is_ready():
    worker = committed()
    assert kinds(run(worker.turn(True), {"MayMeet": False})) == ["Approach", "MayMeet", "Run"][1:]


def test_who_is_in_step_enters_only_when_all_are_ready():
    worker = committed()
    run(worker.turn(True), {"MayMeet": True, "Advance": 2, "Exchange": records(0, 0)})
    split = Order("prepare", 2, (0, 1), (2, 2), (1, 1))
    run(worker.receive(split, 2.0), {"Consider": ""})
    run(worker.receive(replace(split, phase="commit"), 2.1), {})
    answers = {"MayMeet": True, "Advance": None, "Exchange": records(2, 0)}
    assert "Enter" not in kinds(run(worker.turn(True), answers))
    assert "Enter" in kinds(run(worker.turn(True), {**answers, "Exchange": records(2, 2)}))


def test_only_the_bell_of_its_own_step_wakes_a_sleeper():
    worker = committed()
    run(worker.turn(True), {"MayMeet": True, "Advance": 2, "Exchange": records(0, 0)})
    idle = {"HasNews": False, "Exchange": lambda e: [Record(False, 0)] * 2}
    run(worker.turn(False), idle)
    assert worker.state is State.ASLEEP
    effects = run(worker.turn(False), {**idle, "Listen": False})
    assert effects[-2:] == [protocol.Listen((1, 2)), protocol.Run(None)]
    assert "Exchange" in kinds(run(worker.turn(False), {**idle, "Listen": True}))
    effects = run(worker.turn(True), {**idle, "Listen": False})
    assert protocol.Ring((1,), (1, 3)) in effects


# Several workers, in any order


class Member:
    """A worker with a generator under way, if any, and what it waits for."""

    def __init__(self, rank):
        self.protocol, self.rank = WorkerProtocol(rank), rank
        self.inbox, self.steps, self.meeting, self.arrived = [], None, None, None
        self.degree, self.left, self.turns, self.undecided = 1, 0, 0, 0
        self.bells = set()


class Host:
    """A router that orders at random, workers that take turns at random; meetings are the only
    waits."""

    def __init__(self, workers, seed, refusing):
        self.rng, self.refusing = Random(seed), refusing
        self.members = [Member(rank) for rank in range(workers)]
        self.order, self.votes, self.epoch, self.done = None, {}, 0, set()
        self.finished = 0

    # The router

    def route(self):
        degrees = [member.degree for member in self.members]
        if self.order is None:
            width = self.rng.choice([w for w in (2, 4) if w <= len(degrees)])
            first = self.rng.randrange(len(degrees) // width) * width
            before = tuple(degrees[first : first + width])
            after = self.rng.choice([d for d in (1, 2, 4) if d <= width])
            merges, splits = max(before) < after, min(before) > after
            if any(d > width for d in before) or not (merges or splits):
                return
            self.epoch += 1
            ranks = tuple(range(first, first + width))
            self.order = Order("prepare", self.epoch, ranks, before, (after,) * width)
            self.votes, self.done = {}, set()
            self.send("prepare")
        elif self.order.phase == "prepare":
            if any(self.votes.values()) or self.rng.random() < 0.05:
                self.send("abort")
                self.order = None
            elif len(self.votes) == len(self.order.ranks):
                self.order = replace(self.order, phase="commit")
                self.send("commit")

    def send(self, phase):
        for rank in self.order.ranks:
            self.members[rank].inbox.append(replace(self.order, phase=phase))

    # The workers

    def advance(self, member):
        """Let a worker that does not wait go on until it does, or its turn ends."""
        if member.steps is None:
            if member.inbox:
                member.steps = member.protocol.receive(member.inbox.pop(0), 0.0)
            else:
                member.turns += 1
                member.steps = member.protocol.turn(self.rng.random() < 0.3)
            self.resume(member, None)

    def resume(self, member, sent):
        while True:
            try:
                effect = member.steps.send(sent)
            except StopIteration:
                member.steps = None
                return
            if isinstance(effect, protocol.Enter | protocol.Exchange):
                ranks = (
                    effect.order.ranks
                    if isinstance(effect, protocol.Enter)
                    else member.protocol.ranks
                )
                member.meeting, member.arrived = ranks, effect
                self.meet(ranks)
                return
            sent = self.carry_out(member, effect)

    def carry_out(self, member, effect):
        if isinstance(effect, protocol.Consider | protocol.AskVerdict):
            return self.rng.choice([None, "", "", *(["no"] * self.refusing)])
        if isinstance(effect, protocol.Vote):
            if self.order is not None and self.order.epoch == effect.order.epoch:
                self.votes[member.rank] = effect.reason
        elif isinstance(effect, protocol.MayMeet):
            return self.rng.random() < 0.6
        elif isinstance(effect, protocol.HasNews):
            return False
        elif isinstance(effect, protocol.Ring):
            for rank in effect.ranks:
                self.members[rank].bells.add(effect.tag)
        elif isinstance(effect, protocol.Listen):
            heard, member.bells = member.bells, set()
            return effect.tag in heard
        elif isinstance(effect, protocol.Advance):
            return self.move(member)
        return None

    def move(self, member):
        member.left -= 1
        if member.left:
            return None
        order = member.changes
        member.degree = order.after[order.ranks.index(member.rank)]
        self.done.add(member.rank)
        if self.done == set(order.ranks):
            self.order, self.finished = None, self.finished + 1
        return member.degree

    def meet(self, ranks):
        members = [self.members[rank] for rank in ranks]
        if any(member.meeting != ranks for member in members):
            return
        effects = [member.arrived for member in members]
        assert len({type(effect) for effect in effects}) == 1, effects
        if isinstance(effects[0], protocol.Enter):
            assert len({effect.order.epoch for effect in effects}) == 1, effects
            for member, effect in zip(members, effects, strict=True):
                member.left, member.changes = LAYERS, effect.order
            sent = None
        else:
            assert len({(effect.epoch, effect.step) for effect in effects}) == 1, effects
            sent = [Record(effect.has_work, effect.ready) for effect in effects]
        for member in members:
            member.meeting = member.arrived = None
        for member in members:
            self.resume(member, sent)

    def play(self, events):
        for _ in range(events):
            self.route()
            free = [member for member in self.members if member.meeting is None]
            assert free, "all wait: " + str([member.arrived for member in self.members])
            self.advance(self.rng.choice(free))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2, 4]), st.integers(0, 1 << 30), st.booleans())
def test_whatever_the_order_of_turns_and_messages_all_agree_and_nobody_waits_for_ever(
    workers, seed, refusing
):
    host = Host(workers, seed, refusing)
    host.play(1500)
    turns = [member.turns for member in host.members]
    host.play(1500)
    assert all(member.turns > before for member, before in zip(host.members, turns, strict=True))
    assert host.finished
