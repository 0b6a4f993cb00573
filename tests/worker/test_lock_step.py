"""Instances of threads instead of processes: who steps, who sleeps, who wakes whom."""

import threading
from functools import partial

from amoeba_sglang.model.step_record import StepRecord
from amoeba_sglang.worker.lock_step import LockStep


class Room:
    """Shared state of fake groups and bells."""

    def __init__(self, size):
        self.barrier = threading.Barrier(size, timeout=5)
        self.words = [None] * size
        self.bells = [(0, 0)] * size


class FakeGroup:
    def __init__(self, room, rank):
        self.room, self.rank = room, rank

    def exchange(self, words):
        self.room.words[self.rank] = words
        self.room.barrier.wait()
        all_words = list(self.room.words)
        self.room.barrier.wait()
        return all_words


class FakeBell:
    def __init__(self, room, rank):
        self.room, self.rank = room, rank

    def ring(self, ranks, tag):
        for rank in ranks:
            self.room.bells[rank] = max(self.room.bells[rank], tag)

    def rung(self, tag):
        return self.room.bells[self.rank] == tag


def members(size, epoch=3):
    room = Room(size)
    ranks = tuple(range(size))
    return room, [LockStep(epoch, ranks, r, FakeGroup(room, r), FakeBell(room, r)) for r in ranks]


def record(epoch, work):
    return lambda step: StepRecord(epoch, step, 0, 1, has_work=work)


def run_all(targets):
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)


def together(steppers, works, epoch=3):
    results = [None] * len(steppers)

    def run(i):
        results[i] = steppers[i].exchange(works[i], record(epoch, works[i]))

    run_all([partial(run, i) for i in range(len(steppers))])
    return results


def test_all_fall_asleep_in_the_same_round_and_wake_by_one_bell():
    _, steppers = members(2)
    assert all(together(steppers, [True, False]))
    assert not any(s.asleep for s in steppers)
    assert all(together(steppers, [False, False]))
    assert all(s.asleep for s in steppers)
    assert steppers[1].exchange(False, record(3, False)) is None
    assert all(_wake(steppers))
    assert [s.step for s in steppers] == [3, 3]
    assert not any(s.asleep for s in steppers)


def _wake(steppers):
    """The worker with work rings before it waits; the other comes when it hears the bell."""
    results = [None, None]

    def worker():
        results[0] = steppers[0].exchange(True, record(3, True))

    def sleeper():
        while results[1] is None:
            results[1] = steppers[1].exchange(False, record(3, False))

    run_all([worker, sleeper])
    return results


def test_a_stale_bell_does_not_wake_a_sleeper():
    room, steppers = members(2)
    together(steppers, [False, False])
    room.bells[1] = (3, 0)
    assert steppers[1].exchange(False, record(3, False)) is None
    room.bells[1] = (2, 99)
    assert steppers[1].exchange(False, record(3, False)) is None


def test_a_bell_for_a_step_that_is_far_away_does_not_wake_a_sleeper():
    room, steppers = members(2)
    together(steppers, [False, False])
    for tag in ((3, 2), (2**62, 0)):
        room.bells[1] = tag
        assert steppers[1].exchange(False, record(3, False)) is None
