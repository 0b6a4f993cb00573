"""Streams through every layout on mixtures of experts: python -m bench.mixtures.

    python -m bench.mixtures [--families qwen3_moe ...] [--workers 2 4] [--dtypes float32 bfloat16]

Small models with random weights, on the CPU. As bench.reference: 32 streams run while at least 40
changes lead through every layout. Nothing may be lost; in float32 tokens are those of a server that
never changes; log-likelihoods of a text at every degree are within 1e-4 (float32) or 1e-3
(bfloat16) of that at degree 1; weights and KV are bit for bit the same after a merge and a split;
slots are audited at every step; and the weights that a worker has mapped are the plan's, to the
byte. bench/results/mixtures.json has the last run of each, and its commit.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from typing import Any

from amoeba_sglang.control.layout.decoder import load_model
from amoeba_sglang.control.layout.weight_pages import WeightPages
from bench import results_file
from bench.long_request import WeightMemory
from bench.reference.row import STREAMS, Case, Row, expect
from bench.reference.servers import start
from tests.serving.load import chat_prompts
from tests.serving.servers import MODEL
from tests.serving.tiny_models import MIXTURES, make_tiny

_PAGE_KIB = 64
_BYTES = {"float32": 4, "bfloat16": 2}
_TOLERANCES = {"float32": 1e-4, "bfloat16": 1e-3}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.mixtures", description=__doc__)
    parser.add_argument("--families", nargs="+", choices=MIXTURES, default=list(MIXTURES))
    parser.add_argument("--workers", nargs="+", type=int, choices=(2, 4), default=[2, 4])
    parser.add_argument("--dtypes", nargs="+", choices=_BYTES, default=list(_BYTES))
    parser.add_argument("--changes", type=int, default=40)
    options = parser.parse_args(argv)
    failed = False
    for family in options.families:
        with tempfile.TemporaryDirectory() as folder:
            model = str(make_tiny(folder, family, seed=3, tokenizer_dir=MODEL))
            for workers in options.workers:
                for dtype in options.dtypes:
                    found = run(model, dtype, workers, options.changes)
                    failed = failed or bool(found["problems"])
                    results_file.add_row("mixtures", f"{family}, N={workers}, {dtype}", found)
    return int(failed)


def run(model: str, dtype: str, workers: int, changes: int) -> dict[str, Any]:
    """Figures, of which `problems` must be empty."""
    flags = ("--amoeba-page-size-kib", str(_PAGE_KIB))
    row, prompts = Row(None, dtype, flags, _TOLERANCES[dtype]), chat_prompts(STREAMS)
    expected = expect(row, workers, model, prompts) if row.exact else None
    began = time.monotonic()
    with start(None, dtype, model, workers, flags=row.flags) as server:
        case = MixtureCase(server, workers, prompts, expected, row.tolerance)
        case.go(changes)
        case.compare_memory(model, _BYTES[dtype])
        return {**case.figures(), "minutes": round((time.monotonic() - began) / 60, 1)}


class MixtureCase(Case):
    """`mapped`: by degree, the bytes of weights that the workers have mapped, and the plan's."""

    mapped: dict[str, dict[str, list[int]]]

    def compare_memory(self, model: str, dtype_bytes: int) -> None:
        """All workers are at degree 1, and are so again afterwards."""
        chain = self._walk.chain
        layers = load_model(model, dtype_bytes, dtype_bytes).mlp_layers
        pages = WeightPages(chain, _PAGE_KIB << 10, layers)
        workers = [WeightMemory(process.pid) for process in self.server.workers()]
        self.mapped = {}
        for degree in (*chain.degrees[1:], 1):
            self._require(asyncio.run(self._walk.settle(degree)), f"no way to degree {degree}")
            found = [worker.after_merge()["weights_merged"] for worker in workers]
            planned = [
                int(pages.kept_pages(degree, index).size) * pages.page_size
                for index in range(len(workers))
            ]
            self.mapped[f"degree {degree}"] = {"mapped": found, "planned": planned}
            self._require(found == planned, f"{found} bytes of weights at {degree}, not {planned}")

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), "weight_bytes": self.mapped}


if __name__ == "__main__":
    sys.exit(main())
