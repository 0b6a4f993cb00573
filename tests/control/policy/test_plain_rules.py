"""The baselines' rules: a long request goes to a block, which merges for it and splits after it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.policy.base import Decision, Hold, LongRequest, Scene, WorkerLoad
from amoeba_sglang.control.policy.plain_rules import PlainRules
from tests.control.policy.long_traffic import Coming, Traffic

IN_TURN, LEAST_LOADED = PlainRules(in_turn=True), PlainRules(in_turn=False)
BOTH = pytest.mark.parametrize("rules", [IN_TURN, LEAST_LOADED], ids=["in turn", "least loaded"])
LONG = LongRequest("a", 150, 2, 0.0)


def scene(degrees=(1, 1, 1, 1), loads=(0, 0, 0, 0), longs=(0, 0, 0, 0), waiting=(LONG,), **fields):
    """`loads`: running requests by rank."""
    known = {
        "chain": DegreeChain((1, 2, 4)),
        "layout": Layout(degrees),
        "base": 1,
        "loads": tuple(WorkerLoad(running, 0, 10 * running) for running in loads),
        "longs": longs,
        "quiet_since": (0.0,) * 4,
        "waiting": waiting,
        "backlog": len(waiting),
        "pinned": frozenset(),
        "refused": {},
        "now": 5.0,
    }
    return Scene(**known | fields)


@BOTH
def test_the_base_degree_is_nothing_to_choose(rules):
    assert rules.base(scene()) is None


@pytest.mark.parametrize(("turn", "block"), [(0, (0, 1)), (1, (0, 1)), (2, (2, 3)), (7, (2, 3))])
def test_blocks_take_turns_as_workers_do(turn, block):
    request = replace(LONG, turn=turn)
    change = IN_TURN.change(scene(waiting=(request,)))
    assert (change.ranks, change.degree) == (block, 2)
    assert change.reason == "request a needs 150 tokens"
    held = IN_TURN.admit(request, scene(), able=())
    assert held == Hold(f"waits for ranks {list(block)} to merge")


def test_the_least_loaded_block_merges():
    change = LEAST_LOADED.change(scene(loads=(5, 5, 1, 1)))
    assert change.ranks == (2, 3)
    # Tokens break ties, and then the first block does.
    tied = scene(loads=(2, 2, 2, 2))
    assert LEAST_LOADED.change(tied).ranks == (0, 1)
    loads = (WorkerLoad(2, 0, 99), *tied.loads[1:])
    assert LEAST_LOADED.change(replace(tied, loads=loads)).ranks == (2, 3)


def test_the_load_of_a_part_of_an_instance_is_its_share():
    """A block of two inside of an instance of four has half of its requests."""
    busy = scene((4, 4, 4, 4), loads=(3, 3, 0, 0))
    assert LEAST_LOADED._load((2, 3), busy) == (3, 60)


@BOTH
def test_an_instance_that_is_large_enough_serves_it(rules):
    merged = scene((2, 2, 1, 1))
    assert rules.admit(LONG, merged, able=(0,)) == Decision(
        0, "its turn" if rules is IN_TURN else "the least loaded block"
    )
    assert rules.change(merged) is None, "it must not split while somebody waits for it"
    assert isinstance(rules.admit(LONG, merged, able=()), Hold)


@BOTH
@pytest.mark.parametrize(
    "closed",
    [
        {"longs": (1, 0, 1, 0)},
        {"pinned": frozenset({1, 3})},
        {"refused": {((0, 1), 2): 9.0, ((2, 3), 2): 9.0}},
    ],
    ids=["serves long ones", "pinned", "refused lately"],
)
def test_no_block_merges_that_must_not(rules, closed):
    assert rules.change(scene(**closed)) is None


def test_a_refusal_is_forgotten_in_time():
    assert IN_TURN.change(scene(refused={((0, 1), 2): 5.0})) is not None


@BOTH
def test_an_instance_without_long_requests_splits(rules):
    change = rules.change(scene((2, 2, 2, 2), longs=(1, 0, 0, 0), waiting=()))
    assert (change.ranks, change.degree) == ((2, 3), 1)
    assert change.reason == "no long request is left"
    assert rules.change(scene((2, 2, 1, 1), longs=(0, 1, 0, 0), waiting=())) is None
    assert rules.change(scene((2, 2, 1, 1), waiting=(), pinned=frozenset({0}))) is None
    assert rules.change(scene((2, 2, 2, 2), waiting=(), base=2)) is None


COMING = st.builds(Coming, st.floats(0, 20), st.sampled_from([2, 4, 8]), st.floats(0.2, 5))


@settings(max_examples=30, deadline=None)
@given(st.booleans(), st.lists(COMING, min_size=1, max_size=8))
def test_everybody_is_served_and_the_layout_comes_back(in_turn, coming):
    traffic = Traffic(PlainRules(in_turn), coming)
    traffic.play(until=300.0)
    traffic.idle(10.0)
    assert set(traffic.layout.degrees) == {1}
    assert len(traffic.homes) == len(coming)
