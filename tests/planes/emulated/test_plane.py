from types import SimpleNamespace

import numpy as np
import pytest

from amoeba_sglang.control.device import load_device
from amoeba_sglang.control.device.emulation import Emulation
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.transform.moves import unit_moves
from amoeba_sglang.planes.emulated.plane import EmulatedPlane
from amoeba_sglang.planes.emulated.timeline import Timeline
from bench.simulation.mechanisms import received_bytes

CHAIN = DegreeChain((1, 2, 4))
DEVICE = load_device("h100-80-32b-roofline")
EMULATION = Emulation(DEVICE, 10.0)
LIVE = [np.arange(1, count + 1) for count in (1000, 0, 5000, 300)]
LAYERS = range(64)


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self):
        self.slept = []

    def now(self):
        return sum(self.slept)

    def sleep(self, seconds):
        self.slept.append(seconds)


def make_plane(index=0, degree=1):
    clock = Clock()
    executor = SimpleNamespace(layers=[], degree=degree)
    return EmulatedPlane(EMULATION, CHAIN, index, executor, Timeline(clock)), clock.slept


@pytest.mark.parametrize("before, after", [((1,) * 4, (4,) * 4), ((4,) * 4, (2, 2, 2, 2))])
def test_kv_takes_the_time_of_the_worker_that_receives_most(before, after):
    moves, received = unit_moves(CHAIN, before, after), []
    planes = [make_plane(index) for index in range(4)]
    for plane, _ in planes:
        received.append(plane.move_units(LAYERS, moves, LIVE))
    expected = pytest.approx(DEVICE.copy_seconds(max(received), 0))
    assert [slept for _, slept in planes] == [[expected]] * 4
    moving = 0.75 if before == (1,) * 4 else 0.5
    assert sum(received) == moving * 6300 * DEVICE.model.token_bytes


def test_a_few_layers_take_their_share():
    moves, (plane, slept) = unit_moves(CHAIN, (1,) * 2, (2,) * 2), make_plane()
    whole = plane.move_units(LAYERS, moves, LIVE[:2])
    assert plane.move_units(range(8, 16), moves, LIVE[:2]) * 8 == whole
    assert slept[1] * 8 == pytest.approx(slept[0])


def test_a_worker_receives_what_comes_to_its_place_in_the_block():
    moves = unit_moves(CHAIN, (1,) * 2, (2,) * 2)
    first, third = make_plane(0)[0], make_plane(2)[0]
    assert first.move_units(LAYERS, moves, LIVE[:2]) == third.move_units(LAYERS, moves, LIVE[:2])


def test_pages_give_the_capacity_of_the_device_at_every_degree():
    tokens = DEVICE.elastic_tokens(CHAIN.degrees)
    grown = make_plane()[0].grown
    assert {d: d * tokens[1] + grown[d] for d in CHAIN.degrees} == tokens


def test_a_merge_copies_no_weights_and_a_split_refills_them():
    plane, slept = make_plane()
    assert plane.move_weights(LAYERS, 4) == 0
    assert sum(slept) == pytest.approx(DEVICE.mapping_seconds)
    slept.clear()
    copied = sum(plane.move_weights(range(first, first + 16), 1) for first in range(0, 64, 16))
    _, weights = received_bytes(DEVICE, CHAIN.degrees, 4, 1, live_tokens=0)
    assert copied == pytest.approx(weights, rel=1e-6)
    expected = DEVICE.mapping_seconds + DEVICE.copy_seconds(0, weights)
    assert sum(slept) == pytest.approx(expected)


def test_layers_that_stay_cost_nothing():
    plane, slept = make_plane()
    assert plane.move_weights(LAYERS, 1) == 0
    assert slept == []


@pytest.mark.parametrize("degree", CHAIN.degrees)
def test_copied_slots_take_every_worker_its_shard(degree):
    plane, slept = make_plane(degree=degree)
    plane.copy_slots(LIVE[0], LIVE[0])
    bandwidth = DEVICE.memory_bandwidth * DEVICE.memory_efficiency
    assert slept == [pytest.approx(2000 * DEVICE.model.token_bytes / degree / bandwidth)]


def test_results_are_there_when_the_device_is_done():
    plane, slept = make_plane()
    plane._timeline.launch(3.0)
    event = plane.launched()
    plane._timeline.launch(4.0)
    event.synchronize()
    assert slept == [3.0]
    assert plane.device_figures() == {"busy_seconds": 7.0, "late_seconds": 0.0}
