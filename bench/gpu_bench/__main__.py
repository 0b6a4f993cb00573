"""What a buyer asks: python -m bench.gpu_bench --model DIR --gpus N [--dtype bfloat16]

Ours and SGLang alone take turns, each with all GPUs: bench_serving at degree 1 against --dp-size N,
at degree N against static --tp-size N, and at degree 1 with other attention and pages.
Then, on ours: what streams feel of each switch, what switches keep, the longest request at every
degree against the plan, and log-likelihoods after 73 switches. A part that fails says so, and the
others go on. One JSON: bench/results/gpu_bench.json. Exit code 1 if a part failed.

--reference KIND (sm80, sm90, sm100) runs all of it without a GPU, with a tiny load and figures
withheld: it proves that the bench runs, and its JSON is only printed.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

from amoeba_sglang.adapters.cuda.flags import find_kind
from amoeba_sglang.adapters.cuda.kinds import ROWS, choose_row
from amoeba_sglang.errors import ConfigError
from bench import results_file
from bench.gpu_bench import kept, switches
from bench.gpu_bench.sides import TINY, Load, Sides
from bench.throughput import ServingLoad, run_bench_serving
from tests.serving.servers import Server

_WITHHELD = "withheld: the REFERENCE device says nothing of a GPU's speed"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_bench", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--model", required=True, help="a directory with the model")
    parser.add_argument("--gpus", type=int, required=True, help="as many workers, 2 or more")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--reference", choices=ROWS, help="stand for such GPUs on the host")
    options = parser.parse_args(argv)
    if options.gpus < 2:
        parser.error(f"--gpus {options.gpus}: instances merge on 2 GPUs or more")
    try:
        kind = options.reference or find_kind()
        choose_row(kind, options.dtype)
    except ConfigError as error:
        parser.error(str(error))
    sides = Sides(
        options.model, options.gpus, kind, options.dtype, reference=options.reference is not None
    )
    found = Sheet(sides, TINY if sides.reference else Load()).fill()
    if sides.reference:
        print(json.dumps(found))
    else:
        results_file.write("gpu_bench", {"settings": vars(options), **found})
    return int(any("problem" in part for part in found.values()))


class Sheet:
    """`figures` of all parts, by name."""

    def __init__(self, sides: Sides, load: Load) -> None:
        self._sides, self._load = sides, load
        self._rates: dict[str, list[dict[str, Any]]] = {}
        self.figures: dict[str, Any] = {"servers": {}}

    def fill(self) -> dict[str, Any]:
        for number in range(self._load.rounds):
            self._try("servers", self._elastic, number == 0)
            for size in ("--dp-size", "--tp-size"):
                self._try("servers", self._stock, size)
        for name, flags in self._sides.others.items():
            self._try("servers", self._other, name, flags)
        self.figures["throughput"] = self._ratios()
        return self.figures

    def _try(self, part: str, measure: Callable[..., Any], *args: Any) -> None:
        """What a part found; a problem that another one had there stays."""
        try:
            found = measure(*args)
        except Exception as error:
            traceback.print_exc()
            found = {"problem": f"{type(error).__name__}: {error}"[:2000]}
        self.figures[part] = self.figures.get(part, {}) | (found or {})
        print(f"{part}: {'failed' if found and 'problem' in found else 'done'}", flush=True)

    def _elastic(self, first: bool) -> None:
        sides, load = self._sides, self._load
        with sides.elastic() as server:
            self._note("amoeba", server)
            self._serve("degree 1", server)
            if first:
                pages = sides.row.pages[0], sides.memory_page_kib
                self._try("switches", lambda: self._only(switches.measure(server, load)))
                self._try("kept", kept.work, server, load)
                self._try("longest", lambda: {"by_degree": kept.longest(server, *pages)})
                self._try("likelihoods", kept.likelihoods, server, load.switches)
            kept.change(server, sides.workers)
            self._serve(f"degree {sides.workers}", server)

    def _stock(self, size: str) -> None:
        with self._sides.stock(size) as server:
            self._note(f"sglang {size}", server)
            self._serve(size, server)

    def _other(self, name: str, flags: tuple[str, ...]) -> None:
        with self._sides.elastic(*flags) as server:
            self._serve(name, server)

    def _note(self, name: str, server: Server) -> None:
        self.figures["servers"][name] = {"start_s": self._only(round(server.start_seconds, 1))}

    def _serve(self, name: str, server: Server) -> None:
        load, runs = self._load, self._rates.setdefault(name, [])
        serving = ServingLoad(
            load.prompt_tokens, load.output_tokens, load.requests, load.concurrency
        )
        runs.append(run_bench_serving(server, serving, self._sides.workers, seed=len(runs)))

    def _ratios(self) -> dict[str, Any]:
        """Of output tokens a second, round by round."""
        found: dict[str, Any] = {"runs": self._only(self._rates)}
        pairs = {f"degree {self._sides.workers}": "--tp-size", "degree 1": "--dp-size"}
        pairs |= dict.fromkeys(self._sides.others, "degree 1")
        for ours, theirs in pairs.items():
            rates = zip(self._rates.get(ours, []), self._rates.get(theirs, []), strict=False)
            ratios = [a["output_throughput"] / b["output_throughput"] for a, b in rates]
            name = f"{ours} over {theirs}"
            found[name] = self._only(results_file.spread(ratios) if ratios else None)
        return found

    def _only(self, figure: Any) -> Any:
        """A figure, where figures mean anything."""
        if not self._sides.reference:
            return figure
        return dict.fromkeys(figure, _WITHHELD) if isinstance(figure, dict) else _WITHHELD


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
