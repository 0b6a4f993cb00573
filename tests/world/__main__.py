"""python -m tests.world: plays histories drawn from seeds, and says which invariant breaks.

    make world SEEDS=0:50 WORKERS=2 PROFILE=busy
    make world MUTANT=name; make world-mutants LIST=1

Exit code: 0 clean, 1 a violation, 2 the world itself is broken. The last line is JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.world import mutants

os.environ.setdefault("SGLANG_PLATFORM", "amoeba_cpu")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
os.environ["OMP_NUM_THREADS"] = "1"
# Pools are a hundredth of real ones, and so is the output that admission counts on.
os.environ.setdefault("SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION", "32")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0:20", help="half-open range")
    parser.add_argument("--workers", type=int, default=2, help="of a group")
    parser.add_argument("--profile", action="append", help="all without it")
    parser.add_argument("--mutant", default="", help="a fault to play with, see mutants.py")
    parser.add_argument("--resume", type=Path, help="file of earlier runs, to go on from")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", metavar="NAME", help="write the first, shrunk, to kept/NAME.json")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--first", action="store_true", help="stop at the first violation")
    parser.add_argument("--cpu-limit", type=float, default=float("inf"), help="seconds in all")
    parser.add_argument("--replay", type=Path, help="play a kept case, with its trace")
    options = parser.parse_args(argv)
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of strings have an order, which must be the same for ever.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-W", "ignore", "-m", "tests.world", *argv])
    if options.mutant:
        if options.mutant not in mutants.MUTANTS:
            print(f"error: --mutant {options.mutant}: not one of those that LIST=1 prints")
            return 2
        mutants.use(options.mutant)
    from tests.world.campaign import play_all, replay

    if options.replay is not None:
        return replay(options.replay)
    return play_all(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
