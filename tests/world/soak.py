"""make soak: plays fresh seeds of all profiles, for ever or for some minutes, and sums them up.

    make soak MINUTES=30
    python -m tests.world.soak --resume FILE --minutes 30

A later run with the same file goes on where this one has ended, unless the package has changed.
Exit code as of `make world`; a violation is shown, shrunk, and ends it. The last lines are a table
of how often everything happened, and JSON.
"""

import argparse
import itertools
import json
import os
import sys
import time
from pathlib import Path

from tests.world import environment

# Seeds of every profile in a round, by number of workers: about as long for each.
_ROUND = {2: 4, 4: 2, 8: 1}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resume", type=Path, required=True, help="file of what was played")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--table", action="store_true", help="play nothing, only show the sums")
    options = parser.parse_args(argv)
    from tests.world.campaign import PROFILES, Campaign, Results
    from tests.world.rare import EXPECTED

    results = Results(options.resume)
    ends = time.monotonic() + 60 * options.minutes
    campaign = Campaign(results, options.jobs, ends=ends, first=True)
    for number in () if options.table else itertools.count():
        for workers, seeds in _ROUND.items():
            fresh = range(number * seeds, (number + 1) * seeds)
            campaign.play(((name, seed) for name in PROFILES for seed in fresh), workers)
        if campaign.is_over():
            break
    summary = results.summary()
    for name in EXPECTED:
        print(f"{summary['rare'].get(name, 0):>9} {name}")
    print(json.dumps(summary))
    return results.exit_code


if __name__ == "__main__":
    environment.settle("tests.world.soak", sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
