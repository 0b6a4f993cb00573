"""make world-mutants: plays with each mutant until the world finds it, or its time is over.

    python -m tests.world.hunt [--only NAME ...] [--cpu-limit 600]

Exit code: 0 if each is found. Writes bench/results/world_mutants.json unless only some are hunted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from bench import results_file
from tests.world.mutants import MUTANTS


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="only say what there is")
    parser.add_argument("--only", nargs="+", choices=MUTANTS, default=list(MUTANTS))
    parser.add_argument("--cpu-limit", type=float, default=600.0, help="seconds for each")
    options = parser.parse_args()
    if options.list:
        for name, mutant in MUTANTS.items():
            print(f"{name}: {mutant.about}")
        return 0
    found: dict[str, Any] = {}
    for name in options.only:
        found[name] = hunt(name, options.cpu_limit)
        print(f"{name}: {found[name]}", flush=True)
    missed = [name for name, result in found.items() if not result["kind"]]
    print(f"{len(found) - len(missed)} of {len(found)} found; missed: {missed}")
    if options.only == list(MUTANTS):
        results_file.write("world_mutants", {"cpu limit s": options.cpu_limit, "found": found})
    return 1 if missed else 0


def hunt(name: str, cpu_limit: float) -> dict[str, Any]:
    """How the mutant shows first, after how many histories and seconds of the processor."""
    mutant = MUTANTS[name]
    command = [
        sys.executable, "-W", "ignore", "-m", "tests.world", "--first", "--no-shrink",
        "--mutant", name, "--profile", mutant.profile, "--workers", str(mutant.workers),
        "--seeds", "0:1000", "--cpu-limit", str(cpu_limit),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{name} cannot be played: {done.stdout[-500:]}{done.stderr[-500:]}")
    summary = json.loads(done.stdout.splitlines()[-1])
    return {
        "kind": next(iter(summary["kinds"]), ""),
        "seeds": summary["seeds"],
        "cpu": summary["cpu_seconds"],
        "transformations": summary["transformations"],
    }


if __name__ == "__main__":
    sys.exit(main())
