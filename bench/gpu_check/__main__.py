"""python -m bench.gpu_check [--stages kernels]: checks this package on the GPU of this machine.

Every check is a process of its own with a limit of time, so that one that crashes, or leaves the
GPU in an error, takes no other with it. Each prints a line of JSON as soon as it has ended. Exit
code 0: all have found what they should.
"""

import argparse
import json
import subprocess
import sys

STAGES = {
    "kernels": {"driver": 90.0, "movers": 100.0, "joint": 100.0},
    "server": {"one_gpu": 1200.0},
    "multi": {"elastic": 1200.0},
}
"""Checks of every stage, and how many seconds each may take."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", default="kernels", help=f"of {', '.join(STAGES)}")
    wanted = parser.parse_args(argv).stages.split(",")
    for name in wanted:
        if name not in STAGES:
            known = f"known are {', '.join(STAGES)}"
            print(f"error: --stages {name}: is no stage; {known}", file=sys.stderr)
            return 2
    fine = True
    for stage in wanted:
        for name, limit_s in STAGES[stage].items():
            line = run(name, limit_s)
            print(json.dumps({"stage": stage, **line}), flush=True)
            fine &= line["ok"]
    return 0 if fine else 1


def run(name: str, limit_s: float) -> dict[str, object]:
    """The line of one check, which has a process of its own."""
    command = [sys.executable, "-m", "bench.gpu_check.check", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"check": name, "ok": False, "problem": f"not done within {limit_s:.0f} s"}
    said = done.stdout.strip().splitlines()
    try:
        return json.loads(said[-1])
    except (IndexError, ValueError):
        text = " ".join((done.stderr or done.stdout).split())[-600:]
        return {"check": name, "ok": False, "problem": f"exit code {done.returncode}: {text}"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
