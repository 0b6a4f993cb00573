"""A worker with a small decoder in plain torch, over the pages, weights, KV and movers of a plane.

Attention weights are whole on every worker, MLP weights lie in pages that a merge frees, and the KV
of a token lies where its worker's degree says. What it computes with is what a server moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.control.transform.moves import unit_moves
from amoeba_sglang.planes.kernels.device_mover import DeviceKVMover
from amoeba_sglang.planes.memory.base import MemoryHandle
from amoeba_sglang.planes.pages.page_exchange import PageExchange
from amoeba_sglang.planes.pages.ranges import KVRanges
from amoeba_sglang.planes.pages.weight_store import WeightStore
from bench.gpu_check.device import Device
from bench.gpu_check.sums import StagedSums
from bench.gpu_check.workers import Group, open_peers

_TYPE = torch.float32
# Of an instance in a step.
MOST_ROWS = 64


@dataclass(frozen=True)
class Sizes:
    """Of the decoder, and of a worker's pool: `slots` of a token each; pages in bytes."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    dim: int
    intermediate: int
    slots: int
    page_bytes: int

    @property
    def mlp_bytes(self) -> tuple[int, int]:
        """Of gate_up and down of a layer."""
        down = self.hidden * self.intermediate * _TYPE.itemsize
        return 2 * down, down


@dataclass(frozen=True)
class Row:
    """A token that is computed: `numbers` of its worker and row seed its embedding, `slots` are the
    joint ones of its row up to it, in order, int64."""

    home: int
    number: int
    slots: np.ndarray


class Decoder:
    """One worker's; `degree`: that all of its layers are at."""

    def __init__(self, group: Group, device: Device, chain: DegreeChain, sizes: Sizes) -> None:
        device.open()
        self._group, self._device, self.chain, self.sizes = group, device, chain, sizes
        self.degree = 1
        self._memory = device.memory(sizes.page_bytes)
        row_bytes = sizes.kv_heads * sizes.dim * _TYPE.itemsize
        most = sum(sizes.mlp_bytes) + sizes.page_bytes
        self._ranges = KVRanges(self._memory, sizes.layers, sizes.slots + 1, row_bytes, most)
        pages = WeightPages(chain, sizes.page_bytes, (sizes.mlp_bytes,) * sizes.layers)
        self._store = WeightStore(self._memory, pages, group.rank)
        self._make_weights()
        self._sums = StagedSums(group, device, MOST_ROWS * sizes.hidden, sizes.page_bytes)

    def _make_weights(self) -> None:
        """The same on every worker, as a server has them."""
        sizes, finest = self.sizes, self.chain.finest
        noise = torch.Generator().manual_seed(7)
        place = self._ranges.layer(0, (1,), _TYPE)[0].device

        def some(*shape: int) -> torch.Tensor:
            return (torch.randn(*shape, generator=noise) / shape[-1] ** 0.5).to(place)

        self._attention = [
            (
                some((sizes.heads + 2 * sizes.kv_heads) * sizes.dim, sizes.hidden),
                some(sizes.hidden, sizes.heads * sizes.dim),
            )
            for _ in range(sizes.layers)
        ]
        shard = sizes.intermediate // finest
        self._mlp = []
        for layer in range(sizes.layers):
            gate_up, down = self._store.pages.of_layer(layer)
            self._mlp.append(
                (
                    self._store.shards(gate_up, (2, shard, sizes.hidden), _TYPE),
                    self._store.shards(down, (shard, sizes.hidden), _TYPE),
                )
            )
            for tensor in self._mlp[-1]:
                tensor.copy_(some(*tensor.shape))

    # Together with the others

    def export(self) -> tuple[MemoryHandle, MemoryHandle]:
        return self._memory.export(), self._sums.export()

    def meet(self, handles: Sequence[tuple[MemoryHandle, MemoryHandle]]) -> None:
        """Open the memory of the others, by rank."""
        sizes = self.sizes
        self._sums.meet([staged for _, staged in handles])
        memories = [memory for memory, _ in handles]
        self._opened = open_peers(self._group, self._memory, memories, writable=True)
        shape = (sizes.slots + 1, sizes.kv_heads, sizes.dim)
        own = [self._ranges.layer(number, shape, _TYPE) for number in range(sizes.layers)]
        blocks = [
            self._ranges.peer_layers(self._opened[peer], memories[peer], shape, _TYPE)
            if peer in self._opened
            else own
            for peer in range(self._group.size)
        ]
        self._mover = DeviceKVMover.over(
            blocks, self._group, finest=self.chain.finest, device=own[0][0].device,
            settle=self._device.synchronize,
        )  # fmt: skip
        self._pages = PageExchange(self._ranges, self._store, self._opened)

    def change(self, degree: int, live: Sequence[np.ndarray]) -> int:
        """All layers of all workers to `degree`; bytes of weights copied. `live`: local slots with
        KV of each worker."""
        before, count = self.degree, self._group.size
        self._pages.shrink()
        self._device.synchronize()
        copied = self._pages.move_layers(range(self.sizes.layers), degree)
        self._device.synchronize()
        self._group.barrier()
        moves = unit_moves(self.chain, (before,) * count, (degree,) * count)
        self._mover.move(range(self.sizes.layers), moves, live)
        self._pages.grow(degree)
        self.degree = degree
        return copied

    def grown(self) -> tuple[int, int]:
        """Joint slots of the instance that no worker has alone: the first, and how many."""
        return self.degree * (self.sizes.slots + 1), self._pages.grown_slots(self.degree)

    # A step

    def step(self, rows: Sequence[Row]) -> torch.Tensor:
        """Outputs [rows, hidden] of a decode step; all workers call it with the rows of their
        instance, whose KV it writes and reads."""
        x = torch.stack([self._embed(row) for row in rows])
        where = [torch.from_numpy(row.slots).to(x.device) for row in rows]
        ends = torch.stack([slots[-1] for slots in where])
        for layer in range(self.sizes.layers):
            x = x + self._sum(self.attend(layer, x, where, ends))
            x = x + self._sum(self.expand(layer, x))
        return x

    def _sum(self, part: torch.Tensor) -> torch.Tensor:
        first = self._group.rank // self.degree * self.degree
        return self._sums.add(part, range(first, first + self.degree))

    def _embed(self, row: Row) -> torch.Tensor:
        seed = (row.home * 100 + row.number) * 100_000 + len(row.slots)
        noise = torch.Generator().manual_seed(seed)
        return torch.randn(self.sizes.hidden, generator=noise).to(self._attention[0][0].device)

    @property
    def _shard(self) -> int:
        return self.chain.shard(self.degree, self._group.rank % self.degree)

    def attend(
        self, layer: int, x: torch.Tensor, where: Sequence[torch.Tensor], ends: torch.Tensor
    ) -> torch.Tensor:
        """This worker's part: that of its heads. `where`: joint slots of each row."""
        sizes, degree, shard = self.sizes, self.degree, self._shard
        heads, kv_heads = sizes.heads // degree, sizes.kv_heads // degree
        qkv, out = self._attention[layer]
        parts = F.linear(F.layer_norm(x, x.shape[1:]), qkv).split(
            [count * sizes.dim for count in (sizes.heads, sizes.kv_heads, sizes.kv_heads)], dim=1
        )
        query, key, value = (part.chunk(degree, dim=1)[shard] for part in parts)
        keys, values = self._ranges.layer(
            layer, (self._ranges.rows * degree, kv_heads, sizes.dim), _TYPE
        )
        keys[ends], values[ends] = (new.view(-1, kv_heads, sizes.dim) for new in (key, value))
        found = []
        for row, slots in enumerate(where):
            q = query[row].view(heads, 1, sizes.dim)
            k, v = (
                pool[slots].transpose(0, 1).repeat_interleave(heads // kv_heads, 0)
                for pool in (keys, values)
            )
            found.append(F.scaled_dot_product_attention(q, k, v).flatten())
        return F.linear(torch.stack(found), out.chunk(degree, dim=1)[shard])

    def expand(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """This worker's part of the MLP: that of the shards whose pages it has."""
        each = self.chain.finest // self.degree
        mine = slice(self._shard * each, (self._shard + 1) * each)
        gate_up, down = (matrix[mine] for matrix in self._mlp[layer])
        normed = F.layer_norm(x, x.shape[1:])
        gate, up = (gate_up[:, half].flatten(0, 1) for half in (0, 1))
        return F.linear(
            F.silu(F.linear(normed, gate)) * F.linear(normed, up), down.flatten(0, 1).t()
        )

    # What must be as it was

    def bits(self, live: np.ndarray) -> list[torch.Tensor]:
        """Copies on the host of this worker's KV at local `live` slots, and of its MLP weights; at
        degree 1."""
        assert self.degree == 1, self.degree
        sizes, found = self.sizes, []
        for layer in range(sizes.layers):
            pools = self._ranges.layer(layer, (sizes.slots + 1, sizes.kv_heads, sizes.dim), _TYPE)
            found += [pool[torch.from_numpy(live).to(pool.device)].cpu() for pool in pools]
            found += [matrix.cpu() for matrix in self._mlp[layer]]
        return found

    def close(self) -> None:
        for opened in self._opened.values():
            opened.close()
        self._sums.close()
        self._memory.close()
