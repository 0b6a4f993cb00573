"""A worker process with the pages, weights, KV and mover of the server, but without a model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.planes.kv.peer_mover import PeerKVMover
from amoeba_sglang.planes.kv.units import UnitBuffers
from amoeba_sglang.planes.memory.host import HostMemory
from amoeba_sglang.planes.pages.page_exchange import PageExchange
from amoeba_sglang.planes.pages.ranges import KVRanges
from amoeba_sglang.planes.pages.weight_store import WeightStore
from amoeba_sglang.planes.transport import HostGroup

PAGE, STAGING = 64 << 10, 8 << 20
CHAINS = {2: (1, 2), 4: (1, 2, 4)}


@dataclass(frozen=True)
class Shape:
    """What of a model matters here; the sizes of a decoder layer in elements of `dtype`."""

    layers: int
    hidden: int
    intermediate: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def mlp_layers(self) -> tuple[tuple[int, int], ...]:
        """Bytes of gate_up and down, layer by layer."""
        down = self.hidden * self.intermediate * self.dtype.itemsize
        return ((2 * down, down),) * self.layers


SHAPES = {
    "SmolLM2-135M fp32": Shape(30, 576, 1536, 4, 64, dtype=torch.float32),
    "Qwen2.5-0.5B bf16, 4 KV heads": Shape(24, 896, 4864, 4, 64, dtype=torch.bfloat16),
    "Llama-3.2-1B bf16": Shape(16, 2048, 8192, 8, 64, dtype=torch.bfloat16),
}


class PageWorker:
    """One of `n` ranks of the default process group; `slots`: of its own KV pool."""

    def __init__(self, rank: int, n: int, slots: int, shape: Shape) -> None:
        self.rank, self.n, self.shape, self.slots = rank, n, shape, slots
        self.chain = DegreeChain(CHAINS[n])
        self.memory = HostMemory(PAGE)
        row = shape.kv_heads * shape.head_dim * shape.dtype.itemsize
        weights = WeightPages(self.chain, PAGE, shape.mlp_layers)
        self.ranges = KVRanges(self.memory, shape.layers, slots + 1, row, weights.payload_bytes)
        self.store = WeightStore(self.memory, weights, rank)
        # The same model on every worker, as the server has it.
        noise = torch.Generator().manual_seed(7)
        self.weights = [
            self.store.shards(m, (size // n // shape.dtype.itemsize,), shape.dtype)
            .view(-1).uniform_(-0.02, 0.02, generator=noise)
            for m, size in enumerate(weights.matrices)
        ]  # fmt: skip
        self.kv_shape = (slots + 1, shape.kv_heads, shape.head_dim)
        self.blocks = [
            self.ranges.layer(number, self.kv_shape, shape.dtype) for number in range(shape.layers)
        ]
        mine = torch.Generator().manual_seed(rank)
        for tensor in (tensor for pair in self.blocks for tensor in pair):
            tensor.normal_(generator=mine)
        handles: list[Any] = [None] * n
        dist.all_gather_object(handles, self.memory.export())
        peers = {r: self.memory.open_peer(handles[r], writable=True) for r in range(n) if r != rank}
        self.units: list[UnitBuffers | None] = [
            None
            if r == rank
            else UnitBuffers(
                self.ranges.peer_layers(peers[r], handles[r], self.kv_shape, shape.dtype),
                self.chain.finest,
            )
            for r in range(n)
        ]
        # One for the steps, one for what moves beside them.
        self.group, self.moving = (HostGroup.create(dist.group.WORLD) for _ in range(2))
        own = UnitBuffers(self.blocks, self.chain.finest)
        self.mover = PeerKVMover(own, self.units, self.moving, STAGING)
        self.pages = PageExchange(self.ranges, self.store, peers)
        self.peer_weights = self.pages.peer_weights

    def change(self, degree: int) -> int:
        """All weight pages to `degree` at once; bytes copied."""
        self.pages.shrink()
        copied = self.pages.move_layers(range(self.shape.layers), degree)
        self.pages.grow(degree)
        return copied

    def weight_shard(self, holder: int, matrix: int, shard: int) -> torch.Tensor:
        """Bytes of one of n shards of a matrix in the memory of `holder`, which has it mapped."""
        size = self.store.pages.matrices[matrix]
        if holder == self.rank:
            return self.weights[matrix].view(torch.uint8).chunk(self.n)[shard]
        start, _ = self.store.pages.shard_range(matrix, 1, 0)
        return self.peer_weights[holder][start : start + size].chunk(self.n)[shard]

    def matrices_of(self, layer: int, degree: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The worker's shards of gate_up [2 I / d, H] and down [I / d, H] of one layer."""
        shard = self.chain.shard(degree, self.rank % degree)
        gate_up, down = (self.weights[matrix] for matrix in self.store.pages.of_layer(layer))
        hidden = self.shape.hidden
        return (
            gate_up.view(-1, hidden).chunk(degree)[shard],
            down.view(-1, hidden).chunk(degree)[shard],
        )


def live_slots(home: int, count: int, slots: int) -> np.ndarray:
    """`count` of the slots 1..slots of one worker, scattered; ascending."""
    return np.sort(np.random.default_rng(home).permutation(slots)[:count] + 1)
