"""The plane of a CPU worker, over the layers and the pool of a small model."""

from types import SimpleNamespace

import numpy as np
import pytest

from amoeba_sglang.adapters.model.plane import ModelPlane
from amoeba_sglang.adapters.worker.connections import Movers
from amoeba_sglang.planes.device.cpu import CpuDevice
from amoeba_sglang.planes.pages.page_exchange import NoExchange
from tests.adapters.model.joint_group import Group


@pytest.fixture(scope="module")
def worker():
    return Group((1, 2), page=1).workers[1]


def plane_of(worker, pages=None, kv=None):
    return ModelPlane(
        worker.executor,
        worker.pool,
        Movers(kv or {}, pages or NoExchange()),
        device=CpuDevice(),
        degrees=(1, 2),
        staging_bytes=1 << 20,
        crowding=2.0,
    )


def test_without_pages_weights_stay_and_nothing_grows(worker):
    plane = plane_of(worker)
    assert plane.grown == {1: 0, 2: 0} and plane.refusal(1, 2) is None
    plane.shrink()
    assert plane.move_weights(range(2), 2) == 0
    plane.grow(2)


class Pages:
    """Notes what it is told, and when the pool had been viewed again."""

    def __init__(self, pool):
        self.calls, self.grown_slots = [], {1: 0, 2: 6}.get
        self.refusal = lambda before, after: f"{before} to {after} is too far"
        self._seen = pool

    def shrink(self):
        self.calls.append("shrink")

    def grow(self, degree):
        self.calls.append(("grow", degree))

    def move_layers(self, layers, degree):
        self.calls.append((layers, degree))
        return 7


def test_pages_and_movers_do_what_the_plane_is_told(worker):
    pages = Pages(worker.pool)
    mover = SimpleNamespace(move=lambda *args: args)
    plane = plane_of(worker, pages, {2: mover})
    assert plane.grown == {1: 0, 2: 6} and plane.refusal(1, 2) == "1 to 2 is too far"
    plane.shrink()
    assert plane.move_weights(range(1, 3), 2) == 7
    plane.grow(2)
    assert pages.calls == ["shrink", (range(1, 3), 2), ("grow", 2)]
    assert plane.move_units(range(2), ("moves",), ["a", "b"]) == (range(2), ("moves",), ["a", "b"])


def test_the_pool_is_seen_at_the_degree_of_its_layers(worker):
    plane = plane_of(worker)
    slots, heads = worker.pool.k_buffer[0].shape[:2]
    plane.switch(range(2), 2)
    assert worker.pool.k_buffer[1].shape[:2] == (2 * slots, heads // 2)
    assert worker.pool.k_buffer[2].shape[:2] == (slots, heads)
    plane.switch(range(2), 1)
    assert worker.pool.k_buffer[1].shape[:2] == (slots, heads)


def test_slots_are_copied_in_all_layers(worker):
    plane = plane_of(worker)
    worker.pool.k_buffer[0][5] = 3.0
    worker.pool.v_buffer[3][6] = 4.0
    plane.copy_slots(np.array([5, 6]), np.array([9, 10]))
    assert (worker.pool.k_buffer[0][9] == 3.0).all() and (worker.pool.v_buffer[3][10] == 4.0).all()
