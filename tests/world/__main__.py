"""python -m tests.world: plays histories drawn from seeds, and says which invariant breaks.

    make world SEEDS=0:50 WORKERS=2 PROFILE=busy
    make world MUTANT=name; make world-mutants LIST=1

Exit code: 0 clean, 1 a violation, 2 the world itself is broken. The last line is JSON.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from tests.world import environment
from tests.world.mutants import MUTANTS


def main(argv: list[str]) -> int:
    options = _parse(argv)
    if options.mutant:
        if options.mutant not in MUTANTS:
            print(f"error: --mutant {options.mutant}: not one of those that LIST=1 prints")
            return 2
        MUTANTS[options.mutant].use()
    if options.replay is not None or options.kept:
        from tests.world.replay import play_kept, replay

        return play_kept(options.mutant) if options.kept else replay(options.replay)
    return _play(options)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0:20", help="half-open range")
    parser.add_argument("--workers", type=int, default=2, help="of a group")
    parser.add_argument("--profile", action="append", help="all without it")
    parser.add_argument("--mutant", default="", help="a fault to play with, see mutants.py")
    parser.add_argument("--resume", type=Path, help="file of earlier runs, to go on from")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--keep", metavar="NAME", default="", help="write the first, shrunk, to kept/NAME.json"
    )
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--first", action="store_true", help="stop at the first violation")
    parser.add_argument("--cpu-limit", type=float, default=float("inf"), help="seconds in all")
    parser.add_argument("--replay", type=Path, help="play a kept case, with its trace")
    parser.add_argument("--kept", action="store_true", help="play all kept cases, or a mutant's")
    return parser.parse_args(argv)


def _play(options: argparse.Namespace) -> int:
    from tests.world.campaign import PROFILES, Campaign, Results

    names = options.profile or list(PROFILES)
    unknown = [name for name in names if name not in PROFILES]
    if unknown:
        print(f"error: --profile {unknown[0]}: not one of {', '.join(PROFILES)}")
        return 2
    first, last = map(int, options.seeds.split(":"))
    results = Results(options.resume, options.mutant)
    campaign = Campaign(
        results,
        options.jobs,
        options.cpu_limit,
        first=options.first,
        shrinks=not options.no_shrink,
        keep=options.keep,
    )
    campaign.play(((name, seed) for name in names for seed in range(first, last)), options.workers)
    print(json.dumps(results.summary()))
    return results.exit_code


if __name__ == "__main__":
    environment.settle("tests.world", sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
