"""How fast this checkout is against another commit: make ratio BASE=COMMIT, python -m bench.ratio.

The other commit is checked out and made ready by this command (bench/base_checkout.py). Two servers
are up at a time, one asleep while bench_serving measures the other one: prompts with hardly any
output, then outputs after short prompts, at degree 1 and, with --degree N, merged. Both get the
same requests; who goes first alternates. 12 pairs are measured against the base, then, when its
server has ended, 6 of this checkout against itself, which is a second server of it: two processes
of the same code differ too, by where their memory lies for instance, and one server measured twice
would hide that.

The ratio is the base's seconds over this checkout's: above 1 this one is faster. A bar holds if the
90 % interval of the median ratio reaches it and is at most twice as wide as that of one against
itself (bench/pairs.py). Exit code: 0 all bars hold, 1 one does not, 2 undecided, 3 no measurement.
What is measured is kept by both commits: the same command goes on after it was ended.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from amoeba_sglang.errors import ConfigError
from bench import results_file
from bench.base_checkout import CACHE, BaseCheckout, find_commit, make_base, require_committed
from bench.pairs import (
    Interval,
    Pair,
    PairFile,
    Series,
    Verdict,
    exit_code,
    judge,
    median_interval,
)
from bench.throughput import ServingLoad, run_bench_serving
from tests.serving.servers import MODEL, Server

KINDS = {
    "prefill": ServingLoad(input_len=512, output_len=2, num_prompts=16),
    "decode": ServingLoad(input_len=32, output_len=96, num_prompts=16),
}
PAIRS = {"base": 12, "itself": 6}


class CheckoutServer(Server):
    """A server of this checkout, or of `base`, at `degree`."""

    def __init__(self, options: argparse.Namespace, degree: int, base: BaseCheckout | None) -> None:
        flags = (
            f"--tp-size {options.workers} --dtype {options.dtype} --max-total-tokens 16384 "
            "--amoeba-policy static"
        )
        super().__init__(*flags.split(), model=str(Path(MODEL).resolve()))
        self._workers, self._degree = options.workers, degree
        if base is not None:
            self.command[0] = str(base.python)

    def __enter__(self) -> CheckoutServer:
        super().__enter__()
        try:
            for first in range(0, self._workers, self._degree) if self._degree > 1 else ():
                ranks = list(range(first, first + self._degree))
                status, reply = self.transform(ranks, self._degree)
                if status != 200:
                    raise RuntimeError(f"no merge to degree {self._degree}: {status}: {reply}")
        except BaseException:
            self.stop()
            raise
        return self


@dataclass(frozen=True)
class Row:
    """What the pairs of one kind of load at one degree say of `bar`."""

    degree: int
    kind: str
    bar: float
    pairs: dict[str, list[Pair]]

    def interval(self, against: str) -> Interval:
        return median_interval([pair.ratio for pair in self.pairs[against]])

    @property
    def verdict(self) -> Verdict:
        return judge(self.interval("base"), self.interval("itself"), self.bar)

    def figures(self) -> dict[str, Any]:
        return {
            "degree": self.degree,
            "kind": self.kind,
            "bar": self.bar,
            "verdict": self.verdict,
            **{f"ratio against {name}": asdict(self.interval(name)) for name in PAIRS},
            "seconds": {name: [asdict(p) for p in pairs] for name, pairs in self.pairs.items()},
        }

    def __str__(self) -> str:
        base, itself = self.interval("base"), self.interval("itself")
        why = ""
        if self.verdict is Verdict.UNDECIDED:
            why = f": {base.width:.3f} is more than twice {itself.width:.3f}"
        return (
            f"{self.degree:>6}  {self.kind:<8}{base!s:<26}{itself!s:<26}"
            f"{self.bar:.2f} {self.verdict}{why}"
        )


class Measurement:
    """The pairs of one command: which are there, which come next."""

    def __init__(self, options: argparse.Namespace, this: str, base: BaseCheckout) -> None:
        self.options = options
        self.base = base
        self.file = PairFile(CACHE / f"{this[:12]}-{base.commit[:12]}.jsonl")
        self.degrees = [1] if options.degree == 1 else [1, options.degree]
        self._common = Series(
            this=this, base=base.commit, dtype=options.dtype, workers=options.workers,
            degree=1, kind="", against="",
        )  # fmt: skip

    def run(self) -> list[Row]:
        for degree in self.degrees:
            for against in PAIRS:
                self._measure(degree, against)
        return [
            Row(
                degree,
                kind,
                self.options.bar,
                {name: self._pairs(degree, kind, name) for name in PAIRS},
            )
            for degree in self.degrees
            for kind in KINDS
        ]

    def _series(self, degree: int, kind: str, against: str) -> Series:
        return replace(self._common, degree=degree, kind=kind, against=against)

    def _pairs(self, degree: int, kind: str, against: str) -> list[Pair]:
        found = self.file.get(self._series(degree, kind, against))
        return [found[number] for number in range(PAIRS[against])]

    def _missing(self, degree: int, against: str) -> list[tuple[int, str]]:
        return [
            (number, kind)
            for number in range(PAIRS[against])
            for kind in KINDS
            if number not in self.file.get(self._series(degree, kind, against))
        ]

    def _measure(self, degree: int, against: str) -> None:
        missing = self._missing(degree, against)
        if not missing:
            return
        where = f"{self.options.dtype}, degree {degree}, against {against}"
        total = PAIRS[against] * len(KINDS)
        print(f"{where}: {len(missing)} of {total} pairs to go; servers start", flush=True)
        with ExitStack() as stack:
            servers = [
                stack.enter_context(CheckoutServer(self.options, degree, base))
                for base in (None, self.base if against == "base" else None)
            ]
            for load in KINDS.values():
                for server in servers:
                    self._seconds(server, load, seed=0)
            for done, (number, kind) in enumerate(missing, total - len(missing) + 1):
                order = (0, 1) if number % 2 == 0 else (1, 0)
                seconds = {n: self._seconds(servers[n], KINDS[kind], number) for n in order}
                pair = Pair(this=seconds[0], other=seconds[1])
                self.file.add(self._series(degree, kind, against), number, pair)
                print(
                    f"{where}: {done} of {total}: {kind} {pair.this:.2f} s, {against} "
                    f"{pair.other:.2f} s, ratio {pair.ratio:.3f}",
                    flush=True,
                )

    def _seconds(self, server: Server, load: ServingLoad, seed: int) -> float:
        return run_bench_serving(server, load, self.options.workers, seed)["duration"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help="a commit, branch or tag of this repository")
    parser.add_argument("--degree", type=int, default=1, help="measured too, beside degree 1")
    parser.add_argument("--bar", type=float, default=0.98, help="ratio (default %(default)s)")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    try:
        if options.degree < 1 or options.workers % options.degree:
            raise ConfigError(f"--degree {options.degree}: must divide --workers {options.workers}")
        base = find_commit(options.base)
        require_committed()
        this = find_commit("HEAD")
        print(f"making {base[:12]} ready in {CACHE}", flush=True)
        measurement = Measurement(options, this, make_base(base))
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    return report(measurement.run(), options, base)


def report(rows: Sequence[Row], options: argparse.Namespace, base: str) -> int:
    """Write the result and print the table; returns the exit code."""
    kinds = {kind: asdict(load) for kind, load in KINDS.items()}
    results_file.write(
        "ratio",
        {
            "base commit": base[:12],
            "settings": {**vars(options), "kinds": kinds},
            "rows": [row.figures() for row in rows],
        },
    )
    print(f"\nseconds of {base[:12]} over those of this checkout; above 1 this one is faster")
    print(f"{'degree':>6}  {'kind':<8}{'ratio':<26}{'one against itself':<26}bar")
    for row in rows:
        print(row)
    return exit_code([row.verdict for row in rows])


if __name__ == "__main__":
    sys.exit(main())
