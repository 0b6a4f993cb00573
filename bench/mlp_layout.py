"""Layouts of down_proj whose shards are whole pages: python -m bench.mlp_layout.

One product of the bundled model's shape (30 layers of [576, 1536], so that none stays in a cache),
one thread. "upstream": the matrix as SGLang stores it, which has no page-separable shards.
"transposed": the server's layout. "blocks of n": n blocks of columns, each as upstream stores it.
"in pages": upstream's layout in the memory file instead of ordinary memory.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from amoeba_sglang.planes.memory.host import HostMemory
from bench import results_file

_LAYERS, _HIDDEN, _INTERMEDIATE, _PAGE = 30, 576, 1536, 64 << 10
_ROUNDS = {1: 30, 8: 30, 256: 10}


def main() -> None:
    torch.set_num_threads(1)
    figures = {
        f"{str(dtype).removeprefix('torch.')}, {rows} rows": measure(dtype, rows, rounds)
        for dtype in (torch.float32, torch.bfloat16)
        for rows, rounds in _ROUNDS.items()
    }
    results_file.write("mlp_layout", {"microseconds_per_product": figures})


def measure(dtype: torch.dtype, rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of one product by layout; the layouts take turns."""
    weights = [torch.randn(_HIDDEN, _INTERMEDIATE).to(dtype) for _ in range(_LAYERS)]
    transposed = [weight.t().contiguous() for weight in weights]
    pages = in_pages(weights)
    x = torch.randn(rows, _INTERMEDIATE).to(dtype)
    ways: dict[str, Callable[[int], object]] = {
        "upstream": lambda layer: F.linear(x, weights[layer]),
        "in pages": lambda layer: F.linear(x, pages[layer]),
        "transposed": lambda layer: F.linear(x, transposed[layer].t()),
    }
    for count in (2, 4):
        blocks = [torch.stack(weight.chunk(count, dim=1)) for weight in weights]
        ways[f"blocks of {count}"] = lambda layer, blocks=blocks: add_up(x, blocks[layer])
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, product in ways.items():
            start = time.perf_counter()
            for layer in range(_LAYERS):
                product(layer)
            times[way].append((time.perf_counter() - start) / _LAYERS * 1e6)
    return {way: results_file.spread(values) for way, values in times.items()}


def add_up(x: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """x [rows, in] times the matrix stored as blocks [n, out, in / n]."""
    first, *others = zip(x.chunk(len(blocks), dim=1), blocks, strict=True)
    out = F.linear(*first)
    for columns, block in others:
        out = torch.addmm(out, columns, block.t())
    return out


def in_pages(weights: list[torch.Tensor]) -> list[torch.Tensor]:
    memory = HostMemory(_PAGE)
    where = memory.reserve(sum(weight.nbytes for weight in weights))
    memory.map(where, 0, memory.create(where.size // _PAGE), populate=True)
    return [
        where.tensor(i * weight.nbytes, tuple(weight.shape), weight.dtype).copy_(weight)
        for i, weight in enumerate(weights)
    ]


if __name__ == "__main__":
    main()
