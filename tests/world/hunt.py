"""make world-mutants: plays with each mutant until the world finds it, or its time is over.

    python -m tests.world.hunt [--only NAME ...] [--cpu-limit 600]

Exit code: 0 if each is found. Results go to bench/results/world_mutants.json as they come.
"""

import argparse
import json
import os
import sys
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from bench import results_file
from tests.world import environment
from tests.world.mutants import FAULTS, MUTANTS
from tests.world.results import package_hash
from tests.world.runner import Child

_NAME = "world_mutants"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="only say what there is")
    parser.add_argument("--only", nargs="+", choices=MUTANTS, default=list(MUTANTS))
    parser.add_argument("--cpu-limit", type=float, default=600.0, help="seconds for each")
    parser.add_argument("--seeds", default="0:1000", help="half-open range")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(argv)
    if options.list:
        for name, mutant in MUTANTS.items():
            print(f"{name}: {mutant.about}")
        return 0
    environment.import_upstream()
    found: dict[str, Any] = {}
    for name in options.only:
        found[name] = Child(lambda name=name: hunt(name, options)).result()
        print(f"{name}: {found[name]}", flush=True)
        write(found, options.cpu_limit)
    missed = [name for name, result in found.items() if not result["kind"]]
    print(f"{len(found) - len(missed)} of {len(found)} found; missed: {missed}")
    return 1 if missed else 0


def hunt(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """How the mutant shows first, after how many histories and seconds of the processor; in a fork,
    which imports the package with its fault."""
    mutant = MUTANTS[name]
    mutant.use()
    from tests.world.campaign import Campaign, Results

    results = Results(None, name)
    campaign = Campaign(results, options.jobs, options.cpu_limit, first=True, shrinks=False)
    first, last = map(int, options.seeds.split(":"))
    campaign.play(((mutant.profile, seed) for seed in range(first, last)), mutant.workers)
    if results.broken:
        raise RuntimeError(f"{name} cannot be played: {results.broken[0].detail}")
    seen = results.violations[0] if results.violations else None
    return {
        "kind": "" if seen is None else seen.kind,
        "seed": "" if seen is None else seen.seed,
        "workers": mutant.workers,
        "histories": len(results.outcomes),
        "cpu_s": round(results.cpu, 1),
        "package": package_hash(),
    }


def write(found: dict[str, Any], cpu_limit: float) -> None:
    """Add to what is known of other mutants."""
    path = results_file.RESULTS / f"{_NAME}.json"
    known = json.loads(path.read_text())["figures"]["mutants"] if path.exists() else {}
    known = {name: (known | found)[name] for name in MUTANTS if name in known | found}

    def count(names: Any) -> str:
        return f"{sum(bool(known.get(name, {}).get('kind')) for name in names)} of {len(names)}"

    own = [name for name in MUTANTS if name not in FAULTS]
    figures = {"cpu limit s": cpu_limit, "faults": count(FAULTS), "own": count(own)}
    with redirect_stdout(StringIO()):
        results_file.write(_NAME, {**figures, "mutants": known})


if __name__ == "__main__":
    environment.settle("tests.world.hunt", sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
