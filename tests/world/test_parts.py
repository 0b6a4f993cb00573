"""What a world is made of, without workers."""

import threading

import numpy as np
import pytest

from amoeba_sglang.control.layout.slots import DegreeChain
from tests.world.events import Ask, Change, History
from tests.world.fibers import Loop
from tests.world.profiles import PROFILES
from tests.world.shadow import NOTHING, Shadow
from tests.world.shrink import shrink
from tests.world.walk import draw


def never():
    return False


def nothing():
    pass


def test_fibers_run_one_at_a_time_in_virtual_time():
    loop, seen = Loop("a"), []

    def main(name, seconds):
        for _ in range(3):
            loop.current.sleep(seconds)
            seen.append((round(loop.now, 3), name))

    loop.spawn("slow", lambda: main("slow", 0.5), nothing)
    loop.spawn("fast", lambda: main("fast", 0.2), nothing)
    loop.run(never)
    assert seen == [
        (0.2, "fast"), (0.4, "fast"), (0.5, "slow"), (0.6, "fast"), (1.0, "slow"), (1.5, "slow"),
    ]  # fmt: skip


def test_a_parked_fiber_is_woken_or_times_out():
    loop, results = Loop("a"), []
    fiber = loop.spawn("one", lambda: results.append(loop.current.park("x", 5.0)), nothing)
    loop.spawn("two", lambda: results.append(loop.current.park("y", 2.0)), nothing)
    loop.after(1.0, fiber.wake)
    loop.run(never)
    assert results == [True, False]


def test_what_ends_a_fiber_is_raised_and_the_others_are_unwound():
    loop, unwound = Loop("a"), []

    def fails():
        raise ValueError("no")

    def waits():
        try:
            loop.current.park("for ever", 1e9)
        finally:
            unwound.append(True)

    loop.spawn("waits", waits, nothing)
    loop.spawn("fails", fails, nothing)
    with pytest.raises(ValueError, match="no"):
        loop.run(never)
    loop.end()
    assert unwound == [True]
    assert threading.active_count() < 20


def test_ties_are_broken_by_the_seed():
    def order(seed):
        loop, seen = Loop(seed), []
        for number in range(8):
            loop.at(1.0, lambda number=number: seen.append(number))
        loop.run(never)
        return seen

    assert order("a") == order("a")
    assert len({tuple(order(seed)) for seed in range(10)}) > 5


@pytest.mark.parametrize("name", PROFILES)
def test_a_history_is_the_same_for_a_seed_and_survives_as_text(name):
    history = draw(PROFILES[name], name, 5)
    assert history == draw(PROFILES[name], name, 5) != draw(PROFILES[name], name, 6)
    assert History.load(history.seed, history.dump()) == history
    assert [event.at for event in history.events] == sorted(event.at for event in history.events)


def test_shrinking_finds_the_events_that_matter():
    events = [Ask(at=float(i), rid=f"r{i}", prompt=1, output=1) for i in range(60)]
    culprits = {events[7], events[33], events[58]}

    def fails(history):
        return culprits <= set(history.events)

    assert set(shrink(History("s", tuple(events)), fails).events) == culprits


def test_shrinking_ends_where_everything_matters():
    events = tuple(Change(at=float(i), pick=i) for i in range(300))
    assert shrink(History("s", events), lambda tried: False).events == events


def test_the_shadow_follows_leases_and_forgets_what_a_move_clobbers():
    chain = DegreeChain((1, 2))
    shadow = Shadow(workers=2, group=2, chain=chain, size=8, page=2)
    leased = chain.leased_ids(1, np.array([3]))
    shadow.write(0, leased * 2 + 1, np.array([77]))
    assert shadow.read(1, np.array([7])).tolist() == [77]
    shadow.copy(0, leased, np.array([4]))
    assert shadow.read(0, np.array([8, 9])).tolist() == [NOTHING, 77]
    shadow.clobber(0, np.array([2]), own_slots=8)
    assert shadow.read(0, np.array([9])).tolist() == [NOTHING]
