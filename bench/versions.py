"""Degree 1 of this checkout against that of another one: python -m bench.versions OTHER.

OTHER is a directory with another version and its own `.venv`, set up by `make setup model` in it.
Both servers are up, one asleep while the other one is measured with bench_serving, in turn: prompts
and hardly any output, then outputs after short prompts. Both get the same requests, so the ratio is
that of the times; above 1 this checkout is faster.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bench import results_file
from bench.servers import Server
from bench.throughput import run_bench_serving

# Of bench_serving: kind -> input and output tokens at most, and prompts.
KINDS = {"prefill": (512, 2, 16), "decode": (32, 96, 16)}


class OtherServer(Server):
    """A server of the checkout in `directory`."""

    def __init__(self, directory: Path, *args: str) -> None:
        super().__init__(*args)
        where = directory.resolve()
        self.command = ["env", "-C", str(where), str(where / ".venv/bin/python"), *self.command[1:]]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=4, help="best even: who is first is slower")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one run")
    options = parser.parse_args()
    if not (options.other / ".venv/bin/python").exists():
        print(f"error: {options.other}: no .venv/bin/python in it", file=sys.stderr)
        return 2
    figures = {dtype: compare(dtype, options) for dtype in options.dtypes}
    settings = {"workers": options.workers, "pairs": options.pairs, "kinds": KINDS}
    other = results_file.commit(options.other)
    results_file.write("versions", {"other commit": other, "settings": settings, **figures})
    return 0


def compare(dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """By kind, the ratio of seconds that the other takes to those of this checkout."""
    flags = ["--tp-size", str(options.workers), "--dtype", dtype, "--max-total-tokens", "16384"]
    found: dict[str, Any] = {kind: [] for kind in options.kinds}
    with (
        Server(*flags, "--amoeba-policy", "static") as this,
        OtherServer(options.other, *flags) as other,
    ):
        servers = {"this": this, "other": other}
        for number in range(-1, options.pairs):
            for kind in options.kinds:
                order = ("this", "other") if number % 2 == 0 else ("other", "this")
                pair = {side: run(servers[side], kind, max(0, number), options) for side in order}
                if number < 0:
                    continue
                found[kind].append(pair)
                print(f"{dtype}, {kind}, pair {number}: {pair}", flush=True)
    return {
        kind: {**results_file.compare_pairs(pairs, "other", "this"), "seconds": pairs}
        for kind, pairs in found.items()
    }


def run(server: Server, kind: str, seed: int, options: argparse.Namespace) -> float:
    """Seconds."""
    chosen = argparse.Namespace(**vars(options))
    chosen.input_len, chosen.output_len, chosen.num_prompts = KINDS[kind]
    return run_bench_serving(server, chosen, seed)["duration"]


if __name__ == "__main__":
    sys.exit(main())
