"""Workers with weights and KV in pages of their own memory, as many as wanted in one process."""

import functools
from collections.abc import Mapping, Sequence

import torch

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.planes.memory.base import MemoryFault, MemoryHandle
from amoeba_sglang.planes.memory.host import HostMemory
from amoeba_sglang.planes.pages.page_exchange import PageExchange
from amoeba_sglang.planes.pages.ranges import KVRanges
from amoeba_sglang.planes.pages.weight_store import WeightStore

PAGE = 4096
CHAIN = DegreeChain((1, 2, 4))
# gate_up and down of each layer, of one two pairs; hardly a shard begins or ends where a page does.
LAYERS, ROWS, ROW_BYTES = 3, 9, 768
PAGES = WeightPages(
    CHAIN, PAGE, ((37_200, 18_600), (37_200, 18_600, 28_400, 18_400), (37_200, 18_600))
)
MATRICES = PAGES.matrices


class FaultyMemory(HostMemory):
    """Refuses the mapping that `maps_until_fault` counts down to; knows what is mapped where."""

    def __init__(self) -> None:
        super().__init__(PAGE)
        self.maps_until_fault: int | None = None
        self.mapped: dict[int, int] = {}
        """Page by address."""

    def map(self, where, offset, pages, populate=False):
        fault, pages = self._counts_down(), list(pages)
        if fault:
            # The system maps run by run and may stop in between.
            pages = pages[: len(pages) // 2]
        super().map(where, offset, pages, populate)
        for position, page in enumerate(pages):
            self.mapped[where.address + offset + position * PAGE] = page
        if fault:
            raise MemoryFault("no more mappings")

    def unmap(self, where, offset, count):
        super().unmap(where, offset, count)
        for position in range(count):
            self.mapped.pop(where.address + offset + position * PAGE, None)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether there is memory behind a contiguous view: touching it else ends the process."""
        first = tensor.data_ptr() // PAGE
        last = (tensor.data_ptr() + tensor.nbytes - 1) // PAGE
        return all(page * PAGE in self.mapped for page in range(first, last + 1))

    def _counts_down(self) -> bool:
        if self.maps_until_fault is None:
            return False
        self.maps_until_fault -= 1
        if self.maps_until_fault >= 0:
            return False
        self.maps_until_fault = None
        return True


class ElasticWorker:
    """One worker of a group of four; the weights of all are equal, the KV is its own."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.memory = FaultyMemory()
        self.ranges = KVRanges(self.memory, LAYERS, ROWS, ROW_BYTES, sum(MATRICES))
        self.store = WeightStore(self.memory, PAGES, index)
        for number, size in enumerate(MATRICES):
            self.store.shards(number, (size // CHAIN.finest,), torch.uint8)
        self.weights = [_bytes(size, seed=size + n) for n, size in enumerate(MATRICES)]
        for number, weights in enumerate(self.weights):
            self.matrix(number).copy_(weights)
        self.kv = original_kv(index)
        for block, kv in zip(self.blocks, self.kv, strict=True):
            for mine, value in zip(block, kv, strict=True):
                mine.copy_(value)

    def meet(self, handles: Mapping[int, MemoryHandle]) -> None:
        """Open the pages of other workers, given by index."""
        self.peers = {
            index: self.memory.open_peer(handle, writable=True) for index, handle in handles.items()
        }
        self.exchange = PageExchange(self.ranges, self.store, self.peers)
        self.peer_weights = self.exchange.peer_weights

    @property
    def blocks(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(K, V) of each layer: the rows that never move."""
        shape = (ROWS, ROW_BYTES)
        return [self.ranges.layer(number, shape, torch.uint8) for number in range(LAYERS)]

    def matrix(self, number: int) -> torch.Tensor:
        return self.store.shards(number, (MATRICES[number] // CHAIN.finest,), torch.uint8).view(-1)

    @property
    def degree(self) -> int:
        """Of all matrices, which are at one between two transformations."""
        (degree,) = set(self.store.degrees)
        return degree

    def weights_are_whole(self) -> bool:
        """Whether its shard of every matrix is there, bit for bit."""
        for number, weights in enumerate(self.weights):
            degree = self.store.degrees[number]
            shard = CHAIN.shard(degree, self.index % degree)
            mine = self.matrix(number).chunk(degree)[shard]
            if not self.memory.holds(mine):
                return False
            if not torch.equal(mine, weights.chunk(degree)[shard]):
                return False
        return True

    def kv_is_whole(self) -> bool:
        """Whether the base rows are what they were at the start."""
        return all(
            torch.equal(mine, value)
            for block, kv in zip(self.blocks, self.kv, strict=True)
            for mine, value in zip(block, kv, strict=True)
        )

    def overwrite_grown_rows(self) -> None:
        """As long requests do."""
        rows = self.ranges.rows
        for layer in range(LAYERS):
            for part in self.ranges.layer(layer, (rows, ROW_BYTES), torch.uint8):
                assert self.memory.holds(part)
                part[ROWS:].fill_(0xA5)

    def assert_sound(self, degree: int, grown_pages: int) -> None:
        """The state of a worker at `degree`; every page is mapped once or not at all."""
        assert self.degree == degree
        assert self.ranges.grown_pages == grown_pages
        assert self.weights_are_whole()
        assert self.kv_is_whole()
        mapped = list(self.memory.mapped.values())
        assert len(mapped) == len(set(mapped))
        assert len(mapped) == 2 * LAYERS * (self.ranges.base_pages + grown_pages) + len(
            PAGES.kept_pages(degree, self.index)
        )


@functools.cache
def original_kv(index: int) -> torch.Tensor:
    """[layers, 2, rows, bytes] of the worker `index` before anything has moved; not to be written
    to.
    """
    size = LAYERS * 2 * ROWS * ROW_BYTES
    return _bytes(size, seed=1000 + index).view(LAYERS, 2, ROWS, ROW_BYTES)


def make_group() -> list[ElasticWorker]:
    """Four workers that read each other's pages."""
    workers = [ElasticWorker(index) for index in range(CHAIN.finest)]
    for worker in workers:
        worker.meet({peer.index: peer.memory.export() for peer in workers if peer is not worker})
    return workers


def change(workers: Sequence[ElasticWorker], degree: int) -> int:
    """All of them and all layers at once, as in a transformation; bytes copied."""
    copied = 0
    for worker in workers:
        worker.exchange.shrink()
        copied += worker.exchange.move_layers(range(LAYERS), degree)
        worker.exchange.grow(degree)
    return copied


def _bytes(size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
