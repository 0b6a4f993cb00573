"""What workers share: the groups of their blocks, words, and each other's pools."""

import logging
from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import zmq
from sglang.srt.managers.io_struct import sock_recv

from amoeba_sglang.adapters.worker import connections
from amoeba_sglang.adapters.worker.connections import Groups, Movers, share_words
from amoeba_sglang.adapters.worker.router_link import RouterLink
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.reports import IdleAnswer
from amoeba_sglang.control.transform.moves import unit_moves
from amoeba_sglang.planes.device.cpu import CpuDevice
from amoeba_sglang.planes.kv.collective_mover import CollectiveKVMover
from amoeba_sglang.planes.kv.peer_mover import PeerKVMover
from amoeba_sglang.planes.pages.page_exchange import NoExchange
from tests.adapters.model.joint_group import Group
from tests.adapters.model.joint_model import LAYERS
from tests.adapters.threads import Circle, Turns

CHAIN = DegreeChain((1, 2))
# Two groups of two.
CONFIG = AmoebaConfig(2, 2, (1, 2), LAYERS, 4608, "/run", staging_mib=1)
COLLECTIVE = AmoebaConfig(2, 2, (1, 2), LAYERS, 4608, "/run", transport="collective")


@pytest.fixture
def workers(monkeypatch):
    """Of both groups, by rank, in one process; what they tell each other is known beforehand."""
    found = [worker for _ in range(2) for worker in Group((1, 2), page=1).workers]
    told = [worker.pool.memory.export() for worker in found]
    monkeypatch.setattr(connections, "get_world_group", lambda: SimpleNamespace(cpu_group=None))
    values = list(map(astuple, told))
    monkeypatch.setattr(connections, "gather_values", lambda group, mine: values)
    return found


def movers_of(workers, turns, config=CONFIG):
    """By rank."""
    circles = [circle for _ in range(2) for circle in Circle.of(2, turns)]
    return [
        Movers.create(
            config,
            rank,
            worker.pool,
            worker.store,
            Groups({}, {2: (None, circle)}),
            device=CpuDevice(),
        )
        for rank, (worker, circle) in enumerate(zip(workers, circles, strict=True))
    ]


def test_the_kv_of_a_group_changes_places_and_that_of_the_other_stays(workers):
    turns = Turns()
    movers = movers_of(workers, turns)
    generator = torch.Generator().manual_seed(3)
    before = []
    for worker in workers:
        for block in worker.pool.blocks[0]:
            block.copy_(torch.randn(block.shape, generator=generator))
        before.append(worker.pool.blocks[0][0].clone())
    live = [np.array([1, 2]), np.array([2, 5])]
    there, back = unit_moves(CHAIN, (1, 1), (2, 2)), unit_moves(CHAIN, (2, 2), (1, 1))
    mine = [mover.kv[2] for mover in movers[2:]]
    received = turns.run([lambda m=mover: m.move([0], there, live) for mover in mine])
    assert all(count > 0 for count in received)
    keys = [worker.pool.blocks[0][0] for worker in workers]
    assert torch.equal(keys[0], before[0]) and torch.equal(keys[1], before[1])
    assert not torch.equal(keys[2], before[2])
    turns.run([lambda m=mover: m.move([0], back, live) for mover in mine])
    for key, was, slots in zip(keys[2:], before[2:], live, strict=True):
        assert torch.equal(key[slots], was[slots])


def test_weights_are_refilled_from_the_pages_of_the_peer(workers):
    pages = movers_of(workers, Turns())[3].pages
    assert list(pages.peer_weights) == [0]
    assert pages.grown_slots(1) == 0 and pages.refusal(1, 2) is None


def test_a_page_size_that_wastes_is_told_once(workers, caplog, monkeypatch):
    monkeypatch.setattr(connections, "describe_waste", lambda *_: "80% is wasted")
    with caplog.at_level(logging.WARNING):
        movers_of(workers, Turns())
    assert caplog.messages == ["80% is wasted"]


def test_without_the_pages_of_peers_weights_stay(workers, monkeypatch):
    monkeypatch.setattr(dist, "get_rank", lambda group: 0)
    for made in movers_of(workers, Turns(), COLLECTIVE):
        assert isinstance(made.pages, NoExchange) and isinstance(made.kv[2], CollectiveKVMover)
    for made in movers_of(workers, Turns()):
        assert isinstance(made.kv[2], PeerKVMover)


@pytest.mark.parametrize("kind", ["peer", "collective"])
def test_every_degree_has_transports_of_its_blocks(monkeypatch, kind):
    """Of the steps, and others for what moves on another thread meanwhile."""
    config = AmoebaConfig(4, 2, (1, 2, 4), LAYERS, 4608, "/run", transport=kind)
    asked, transports = [], []

    def make_subgroup(blocks, timeout, backend):
        assert timeout.total_seconds() == config.watchdog_timeout_s and backend == "gloo"
        asked.append(blocks)
        return f"group {len(asked)}", blocks

    def make_transport(of_kind, group, timeout_s, freeze_s, progress):
        assert (of_kind, timeout_s, freeze_s) == (kind, 300.0, 8.0)
        transports.append(SimpleNamespace(group=group, progress=progress))
        return transports[-1]

    monkeypatch.setattr(connections, "create_group", make_transport)
    monkeypatch.setattr(dist, "new_subgroups_by_enumeration", make_subgroup)
    progress = np.zeros(8, dtype=np.int64)
    groups = Groups.create(config, DegreeChain(config.degrees), progress)
    pairs, fours = [[i, i + 1] for i in (0, 2, 4, 6)], [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert asked == [pairs, pairs, fours, fours]
    for degree, first in ((2, 1), (4, 3)):
        step, (group, moving) = groups.transports[degree], groups.moving[degree]
        assert step.group == f"group {first}"
        assert group == moving.group == f"group {first + 1}"
        assert step.progress is progress and moving.progress is progress
        assert f"block of {degree}" in moving.phase


def test_words_are_everybody_s_only_through_shared_memory(monkeypatch, tmp_path):
    assert share_words(COLLECTIVE).tolist() == [0] * 4
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/one", rank=0, world_size=1)
    try:
        world = SimpleNamespace(cpu_group=dist.group.WORLD)
        monkeypatch.setattr(connections, "get_world_group", lambda: world)
        words = share_words(CONFIG)
        words[3] = 7
        assert words.tolist() == [0, 0, 0, 7] and words.dtype == np.int64
    finally:
        dist.destroy_process_group()


def test_a_report_travels_to_the_router(tmp_path):
    address = f"ipc://{tmp_path}/reports"
    router = zmq.Context.instance().socket(zmq.PULL)
    router.bind(address)
    try:
        report = IdleAnswer(rank=1, number=2, idle=False)
        link = RouterLink(address)
        link.send(report)
        assert router.poll(60_000)
        assert sock_recv(router).report == report
    finally:
        router.close(0)
