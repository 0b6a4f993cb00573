"""Every fault at every moment, one server each: python -m bench.faults [--workers 2 ...]."""

import argparse
import time

from bench import results_file
from tests.serving.fault_cases import FLAGS, MOMENTS, SIGNALS, run_fault
from tests.serving.servers import Server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="--tp-size of the servers")
    parser.add_argument("--moments", nargs="+", choices=MOMENTS, default=list(MOMENTS))
    parser.add_argument("--faults", nargs="+", choices=list(SIGNALS), default=list(SIGNALS))
    options = parser.parse_args()
    outcomes = []
    for moment in options.moments:
        for fault in options.faults:
            started = time.monotonic()
            with Server("--tp-size", str(options.workers), *FLAGS) as server:
                outcome = run_fault(server, options.workers, moment, fault)
            outcomes.append(outcome.figures())
            slowest = max(client["seconds"] for client in outcome.clients)
            print(
                f"{fault} while {moment}: clients within {slowest:.2f} s, exit "
                f"{outcome.exit_code} after {outcome.exit_seconds} s, "
                f"problems {outcome.problems()} ({time.monotonic() - started:.0f} s)",
                flush=True,
            )
    results_file.write("faults", {"workers": options.workers, "cases": outcomes})


if __name__ == "__main__":
    main()
