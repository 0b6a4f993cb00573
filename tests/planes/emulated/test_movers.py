import numpy as np
import pytest

from amoeba_sglang.control.device import load_device
from amoeba_sglang.control.device.emulation import Emulation
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.transform.moves import unit_moves
from amoeba_sglang.planes.emulated.movers import EmulatedPages, EmulatedUnitMover
from bench.simulation.mechanisms import received_bytes

CHAIN = DegreeChain((1, 2, 4))
DEVICE = load_device("h100-80-32b-roofline")
EMULATION = Emulation(DEVICE, 10.0)
LIVE = [np.arange(1, count + 1) for count in (1000, 0, 5000, 300)]
LAYERS = range(64)


@pytest.mark.parametrize("before, after", [((1,) * 4, (4,) * 4), ((4,) * 4, (2, 2, 2, 2))])
def test_kv_takes_the_time_of_the_worker_that_receives_most(before, after):
    moves, slept, received = unit_moves(CHAIN, before, after), [], []
    for index in range(4):
        mover = EmulatedUnitMover(EMULATION, CHAIN, index, slept.append)
        received.append(mover.move(LAYERS, moves, LIVE))
    assert slept == [pytest.approx(DEVICE.copy_seconds(max(received), 0))] * 4
    moving = 0.75 if before == (1,) * 4 else 0.5
    assert sum(received) == moving * 6300 * DEVICE.model.token_bytes


def test_a_few_layers_take_their_share():
    moves, slept = unit_moves(CHAIN, (1,) * 2, (2,) * 2), []
    mover = EmulatedUnitMover(EMULATION, CHAIN, 0, slept.append)
    whole = mover.move(LAYERS, moves, LIVE[:2])
    assert mover.move(range(8, 16), moves, LIVE[:2]) * 8 == whole
    assert slept[1] * 8 == pytest.approx(slept[0])


def test_pages_give_the_capacity_of_the_device_at_every_degree():
    pages = EmulatedPages(EMULATION, CHAIN, lambda seconds: None)
    tokens = DEVICE.elastic_tokens(CHAIN.degrees)
    assert {d: d * tokens[1] + pages.grown_slots(d) for d in CHAIN.degrees} == tokens


def test_a_merge_copies_no_weights_and_a_split_refills_them():
    slept = []
    pages = EmulatedPages(EMULATION, CHAIN, slept.append)
    assert pages.move_layers(LAYERS, 4) == 0
    assert sum(slept) == pytest.approx(DEVICE.mapping_seconds)
    slept.clear()
    copied = sum(pages.move_layers(range(first, first + 16), 1) for first in range(0, 64, 16))
    _, weights = received_bytes(DEVICE, CHAIN.degrees, 4, 1, live_tokens=0)
    assert copied == pytest.approx(weights, rel=1e-6)
    expected = DEVICE.mapping_seconds + DEVICE.copy_seconds(0, weights)
    assert sum(slept) == pytest.approx(expected)


def test_layers_that_stay_cost_nothing():
    slept = []
    assert EmulatedPages(EMULATION, CHAIN, slept.append).move_layers(LAYERS, 1) == 0
    assert slept == []
