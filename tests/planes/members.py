"""Workers of a block that transform, with memories of their own.

They are threads, which import SGLang once for all.
"""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import torch

from amoeba_sglang.adapters.emulated.executor import EmulatedLayer
from amoeba_sglang.adapters.messages import TransformOrder
from amoeba_sglang.adapters.model.plane import ModelPlane
from amoeba_sglang.adapters.worker.connections import Movers
from amoeba_sglang.control.layout.capacity import growth_pages
from amoeba_sglang.control.transform.pace import Pace
from amoeba_sglang.planes.device.cpu import CpuDevice
from amoeba_sglang.planes.kv.peer_mover import PeerKVMover
from amoeba_sglang.planes.kv.units import UnitBuffers
from amoeba_sglang.planes.memory.base import MemoryFault
from amoeba_sglang.planes.transformation import Transformation
from tests.elastic_workers import (
    CHAIN,
    LAYERS,
    PAGES,
    ROW_BYTES,
    ROWS,
    ElasticWorker,
    original_kv,
)

LIVE = np.arange(1, ROWS)


class ThreadGroup:
    """The part of a TransportGroup that a transformation uses, for workers that are threads."""

    def __init__(self, rank, barrier, words):
        self.rank, self.size = rank, barrier.parties
        self.barrier, self._words = barrier.wait, words

    def exchange(self, record):
        self._words[self.rank] = record
        self.barrier()
        received = [words.copy() for words in self._words]
        self.barrier()
        return received


class Pool:
    """The degrees at which a pool shows its layers."""

    def __init__(self):
        self.viewed = [1] * LAYERS

    def view_layer(self, number, degree):
        self.viewed[number] = degree


class ReluctantPlane(ModelPlane):
    """Refuses one move of layers, before which it counts down."""

    moves_until_fault = None

    def move_weights(self, layers, degree):
        if self.moves_until_fault is not None:
            self.moves_until_fault -= 1
            if self.moves_until_fault < 0:
                self.moves_until_fault = None
                raise MemoryFault("no more moves")
        return super().move_weights(layers, degree)


class Member(ElasticWorker):
    """A worker with all that a transformation needs; it knows its peers by their handles."""

    def join(self, group, moving_group, handles):
        self.group, self.moving_group = group, moving_group
        self.helper = ThreadPoolExecutor(1)
        self.meet({index: handle for index, handle in enumerate(handles) if index != self.index})
        own = UnitBuffers(self.blocks, CHAIN.finest)
        pools = [
            None if index == self.index else self.pool_of(index, handle)
            for index, handle in enumerate(handles)
        ]
        self.layers, self.pool = [EmulatedLayer() for _ in range(LAYERS)], Pool()
        self.plane = ReluctantPlane(
            SimpleNamespace(layers=self.layers),
            self.pool,
            Movers({CHAIN.finest: PeerKVMover(own, pools, moving_group, 1 << 14)}, self.exchange),
            device=CpuDevice(),
            degrees=CHAIN.degrees,
            staging_bytes=1 << 14,
            crowding=1.0,
        )

    def pool_of(self, index, handle):
        shape = (ROWS, ROW_BYTES)
        layers = self.ranges.peer_layers(self.peers[index], handle, shape, torch.uint8)
        return UnitBuffers(layers, CHAIN.finest)

    def start(self, epoch, before, after, pace):
        order = TransformOrder(
            phase="commit",
            operation_id="op",
            epoch=epoch,
            ranks=list(range(len(before))),
            before=list(before),
            after=list(after),
        )
        return Transformation(
            order,
            CHAIN,
            self.index,
            plane=self.plane,
            block=self.group,
            moving=self.moving_group,
            pace=Pace(pace),
            plain_seconds=0.0,
            helper=self.helper,
            now=time.monotonic,
        )

    def check(self, lower, upper, b, layers):
        """What of `layers` is not as it must be while layers [0, b) are at `lower` and the others
        at `upper`: a joint step would compute with it now."""
        wrong, blocks = [], self.blocks
        for number in layers:
            degrees = lower if number < b else upper
            kv = torch.stack(blocks[number]).view(2, ROWS, CHAIN.finest, -1)
            for home, unit, place in held_units(self.index, degrees):
                theirs = original_kv(home)[number].view_as(kv)
                if not torch.equal(kv[:, 1:, place], theirs[:, 1:, unit]):
                    wrong.append(f"layer {number} unit {unit} of home {home}")
            degree = degrees[self.index]
            present = self.layers[number].degree, self.pool.viewed[number]
            if present != (degree, degree):
                wrong.append(f"layer {number} at {present[0]}, seen at {present[1]}")
            if {self.store.degrees[matrix] for matrix in self.store.pages.of_layer(number)} != {
                degree
            }:
                wrong.append(f"weights of layer {number} not at {degree}")
        if len(layers) == LAYERS and not self.weights_are_whole():
            wrong.append("weights")
        return wrong

    def check_growth(self, degrees):
        grown = growth_pages(PAGES, degrees[self.index], LAYERS)
        return [] if self.ranges.grown_pages == grown else [f"{self.ranges.grown_pages} grown"]


@functools.cache
def held_units(index, degrees):
    """(home, unit, place) of every unit of KV that the worker `index` holds."""
    places = [
        (home, unit, *CHAIN.place(degree, home, unit))
        for home, degree in enumerate(degrees)
        for unit in range(CHAIN.finest)
    ]
    return [(home, unit, place) for home, unit, holder, place in places if holder == index]


def walk(steps):
    """By worker and try: (its report, b after each move, what is ever wrong).

    A step is (before, after, layers a move, failing worker or None, what makes it fail). One that
    failed is tried once more, without the fault.
    """
    members = [Member(rank) for rank in range(CHAIN.finest)]
    handles = [member.memory.export() for member in members]
    # The limit ends a deadlock; who fails lets the others go at once.
    barriers = [threading.Barrier(CHAIN.finest, timeout=120) for _ in range(3)]
    words = [[None] * CHAIN.finest for _ in range(2)]
    for member in members:
        groups = [ThreadGroup(member.index, *each) for each in zip(barriers, words, strict=False)]
        member.join(*groups, handles)
    barrier = barriers[2]

    def work(member):
        found, left = [], [*steps]
        while left:
            before, after, pace, failing, fail = left.pop(0)
            if member.index == failing:
                fail(member)
            lower, upper = (tuple(map(f, zip(before, after, strict=True))) for f in (min, max))
            moving = member.start(len(found) + 1, before, after, pace)
            moving.enter()
            boundaries, wrong = [moving.boundary.b], []
            while not moving.finished:
                moving.advance(LIVE)
                # A joint step: layers before those that move, which must not be touched, then all.
                b, start = moving.boundary.b, moving.layers.start
                moving.begin()
                barrier.wait()
                wrong += member.check(lower, upper, b, range(start))
                moving.settle()
                if moving.boundary.b != boundaries[-1]:
                    boundaries.append(moving.boundary.b)
                barrier.wait()
                wrong += member.check(lower, upper, moving.boundary.b, range(LAYERS))
                barrier.wait()
            member.memory.maps_until_fault = None
            wrong += member.check_growth(before if moving.report.error else after)
            found.append((moving.report, boundaries, wrong))
            if moving.report.error and failing is not None:
                left.insert(0, (before, after, pace, None, None))
            # Long requests may use the grown rows between transformations.
            member.overwrite_grown_rows()
            barrier.wait()
        member.helper.shutdown()
        return found

    def work_or_let_go(member):
        try:
            return work(member)
        except BaseException:
            for barrier in barriers:
                barrier.abort()
            raise

    try:
        with ThreadPoolExecutor(CHAIN.finest) as executor:
            return list(executor.map(work_or_let_go, members))
    finally:
        # Hundreds of walks in one process: each leaves none of its descriptors.
        for member in members:
            member.memory.close()


def mapping_fails(count):
    def fail(member):
        member.memory.maps_until_fault = count

    return fail


def move_fails(count):
    def fail(member):
        member.plane.moves_until_fault = count

    return fail
