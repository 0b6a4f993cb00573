"""What the kernel moves, in Triton's interpreter; `test_turn_cycle` runs this file in a process.

Triton decides when it is imported whether it compiles, so this cannot share a process with tests
for which it must.
"""

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.transform.moves import find_cycles, unit_moves
from amoeba_sglang.planes.kernels.device_mover import DeviceKVMover
from tests.planes.kernels.blocks import Block, changes

assert os.environ["TRITON_INTERPRET"] == "1"

FOUR, EIGHT = DegreeChain((1, 2, 4)), DegreeChain((1, 2, 4, 8))
LAYERS = 2
# Of one vector, of K and V that differ, and of runs that blocks of the kernel end in.
UNIT_BYTES = [(16, 16), (48, 16), (1040, 1040), (16, 2064)]


class Alone:
    """The part of a TransportGroup that a mover uses, for workers that move one after another."""

    def __init__(self, rank, size, barrier):
        self.rank, self.size, self.barrier = rank, size, barrier


@st.composite
def pools_and_live(draw, before, after, most_rows):
    """(rows by worker, live slots by home): uneven pools, slots that all have who hold them."""
    rows = draw(st.lists(st.integers(2, most_rows), min_size=len(before), max_size=len(before)))
    live = []
    for home, degrees in enumerate(zip(before, after, strict=True)):
        first = home // max(degrees) * max(degrees)
        least = min(rows[first : first + max(degrees)])
        dead = draw(st.sets(st.integers(1, least - 1)))
        live.append(np.array(sorted({*range(1, least)} - dead), dtype=np.int64))
    return rows, live


def move_one_after_another(block, moves, live, layers):
    """Let every worker of the block move; what each received."""
    movers = [mover_of(block, worker) for worker in range(len(block.pools))]
    return [mover.move(layers, moves, live) for mover in movers]


def mover_of(block, worker, settle=lambda: None, barrier=lambda: None):
    peers = [None if i == worker else pool for i, pool in enumerate(block.pools)]
    group = Alone(worker, len(peers), barrier)
    device = torch.device("cpu")
    return DeviceKVMover(block.pools[worker], peers, group, device=device, settle=settle)


def check(data, chain, change, most_rows, some_layers):
    before, after = change
    rows, live = data.draw(pools_and_live(before, after, most_rows))
    unit_bytes = data.draw(st.sampled_from(UNIT_BYTES))
    layers = data.draw(st.sampled_from(some_layers))
    block = Block(chain, rows, unit_bytes, LAYERS)
    expected = block.after(before, after, live, layers)
    moves = unit_moves(chain, before, after)
    received = move_one_after_another(block, moves, live, layers)
    assert np.array_equal(block.bytes, expected)
    for worker, count in enumerate(received):
        units = sum(len(live[move.home]) for move in moves if move.target == worker)
        assert count == units * sum(unit_bytes) * len(layers)


def _settings(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        # What is small already would be shrunk for minutes.
        phases=[Phase.generate],
    )


def _name(change):
    return " to ".join("".join(map(str, degrees)) for degrees in change)


@pytest.mark.parametrize("change", changes(FOUR), ids=_name)
@_settings(4)
@given(data=st.data())
def test_every_change_of_a_block_of_up_to_four(change, data):
    check(data, FOUR, change, 5, [[1], [0, 1]])


# The first example has all slots alive, the second is any.
@pytest.mark.parametrize("change", changes(EIGHT), ids=_name)
@_settings(2)
@given(data=st.data())
def test_every_change_of_a_block_of_up_to_eight(change, data):
    check(data, EIGHT, change, 3, [[1], [0]])


def test_a_worker_moves_between_two_barriers_and_has_settled_before_each():
    block, moves = Block(FOUR, [3, 3], (16, 16), 1), unit_moves(FOUR, (1, 1), (2, 2))
    kept, seen = block.bytes.copy(), []

    def see(what):
        seen.append((what, not np.array_equal(block.bytes, kept)))

    mover = mover_of(block, 1, lambda: see("settle"), lambda: see("barrier"))
    mover.move([0], moves, [np.array([1, 2])] * 2)
    assert seen == [("settle", False), ("barrier", False), ("settle", True), ("barrier", True)]


@pytest.mark.parametrize("chain", [FOUR, EIGHT])
def test_a_warm_up_launches_every_length_of_cycle_and_moves_nothing(chain, monkeypatch):
    block, launched = Block(chain, [3] * chain.finest, (16, 16), 1), []
    real = DeviceKVMover._launch

    def launch(self, launch, table):
        launched.append(launch.members)
        real(self, launch, table)

    monkeypatch.setattr(DeviceKVMover, "_launch", launch)
    kept = block.bytes.copy()
    mover_of(block, 1).warm_up()
    assert np.array_equal(block.bytes, kept)
    every = (unit_moves(chain, *change) for change in changes(chain))
    lengths = {len(cycle) for moves in every for cycle in find_cycles(moves)}
    assert launched == sorted(lengths)


def test_nobody_waits_when_there_is_nothing_to_move():
    block = Block(FOUR, [3, 3], (16, 16), 1)
    mover = mover_of(block, 0, pytest.fail, pytest.fail)
    assert mover.move([0], (), [np.array([1])] * 2) == 0
