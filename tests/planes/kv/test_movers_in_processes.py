"""Both movers side by side on real processes, whose pools lie in host memory."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from amoeba_sglang.control.layout.kv_shape import KVShape
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.control.transform.moves import unit_moves
from amoeba_sglang.plan.transform_plan import TransformPlan
from amoeba_sglang.planes.kv.collective_mover import CollectiveKVMover
from amoeba_sglang.planes.kv.peer_mover import PeerKVMover
from amoeba_sglang.planes.kv.units import UnitBuffers
from amoeba_sglang.planes.memory.host import HostMemory
from amoeba_sglang.planes.transport import HostGroup
from tests.planes.kv.pools import PoolModel, fill, wrong_units
from tests.processes import run_workers

ELEMENTS = 3
"""float32 elements of a unit."""
LAYERS, ROWS = 7, 25
SHAPE = KVShape(LAYERS, kv_heads=4, head_dim=ELEMENTS, kv_dtype_bytes=4)


def host_pools(n, finest):
    """This worker's pool in host memory and the pools of all, by rank."""
    memory = HostMemory(4096)
    shape = (LAYERS, 2, ROWS, finest, 4 // finest * ELEMENTS)
    where = memory.reserve(torch.Size(shape).numel() * 4)
    memory.map(where, 0, memory.create(where.size // memory.page_size))
    own = where.tensor(0, shape, torch.float32)
    handles = [None] * n
    dist.all_gather_object(handles, memory.export())
    rank = dist.get_rank()
    return own, [
        None
        if peer == rank
        else memory.open_peer(handle, writable=True).tensor(0, shape, torch.float32)
        for peer, handle in enumerate(handles)
    ]


def walk_both(rank, n, degrees, path, staging):
    """Walk with both movers side by side; per step what was received and what was wrong."""
    chain = DegreeChain(degrees)
    finest = chain.finest
    straight, peers = host_pools(n, finest)
    collected = torch.empty_like(straight)
    movers = [
        PeerKVMover(
            UnitBuffers(list(straight), finest),
            [None if peer is None else UnitBuffers(list(peer), finest) for peer in peers],
            HostGroup.create(dist.group.WORLD),
            # It needs less for as many turns as the other one takes.
            staging // 8,
        ),
        CollectiveKVMover(UnitBuffers(list(collected), finest), dist.group.WORLD, staging),
    ]
    pools = [straight, collected]
    generator = np.random.default_rng(5)
    model = PoolModel(chain, LAYERS, ROWS, path[0])
    found = []
    for after in path[1:]:
        counts = generator.permutation([0, 3, ROWS - 1, 12])[:n]
        old = [set(slots.tolist()) for slots in model.live] or [set()] * n
        model.set_live(
            [
                # Half of what lives on, beside new tokens.
                {slot for slot in home if slot % 2}
                | set((generator.permutation(ROWS - 1)[:count] + 1).tolist())
                for home, count in zip(old, counts, strict=True)
            ]
        )
        for pool in pools:
            fill(pool, model.held_by(rank))
        moves = unit_moves(chain, model.degrees, after)
        received = [mover.move(range(LAYERS), moves, model.live) for mover in movers]
        plan = TransformPlan.build(
            (model.degrees, after),
            [len(x) for x in model.live],
            SHAPE,
            WeightPages(chain, 4096, ((4096, 4096),) * LAYERS),
            staging_bytes=staging,
        )
        model.degrees = after
        held = model.held_by(rank)
        wrong = [wrong_units(pool, held) for pool in pools]
        found.append((received, plan.received_bytes[rank], len(held), wrong))
    return found


ALL_CHANGES = [
    (1, 1, 1, 1),
    (2, 2, 1, 1),
    (4, 4, 4, 4),
    (1, 1, 2, 2),
    (2, 2, 2, 2),
    (4, 4, 4, 4),
    (1, 1, 1, 1),
    (4, 4, 4, 4),
    (2, 2, 2, 2),
    (1, 1, 1, 1),
]
THERE_AND_BACK = [(1, 1), (2, 2), (1, 1)]
TINY, AMPLE = 800, 1 << 20


@pytest.mark.parametrize(
    ("degrees", "path", "staging"),
    [
        pytest.param((1, 2), THERE_AND_BACK, AMPLE, id="2"),
        pytest.param((1, 2, 4), THERE_AND_BACK, TINY, id="2 of 4, tiny staging"),
        pytest.param((1, 2, 4), ALL_CHANGES, AMPLE, id="4"),
        pytest.param((1, 2, 4), ALL_CHANGES, TINY, id="4, tiny staging"),
    ],
)
def test_both_movers_on_real_processes(degrees, path, staging):
    n = len(path[0])
    results = run_workers(n, walk_both, degrees, path, staging)
    for by_step in results:
        assert len(by_step) == len(path) - 1
        for (straight, collected), planned, _, wrong in by_step:
            assert wrong == [[], []]
            assert straight == collected == planned
    assert all(sum(by_rank[step][1] for by_rank in results) > 0 for step in range(len(path) - 1))
    assert all(sum(by_rank[step][2] for by_rank in results) > 0 for step in range(len(path) - 1))
