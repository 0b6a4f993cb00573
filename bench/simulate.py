"""SIMULATED comparison of policies, layouts and rivals: the highest rate that each sustains.

    python -m bench.simulate --trace azure2023_conv.csv --trace mooncake_conversation.csv \
        --device h100-96-32b-tp-loss

A trace is a CSV file with the columns timestamp_s,input_tokens,output_tokens. Nothing is measured:
steps and transformations take what the device file says. With --rate the contenders are not
searched but run once at that rate, as for a comparison with an emulated or a real server.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amoeba_sglang.control.device import device_names, load_device
from amoeba_sglang.errors import AmoebaError, ConfigError
from bench import results_file
from bench.charts.measured import draw_simulation
from bench.simulation.contenders import contenders, static_contenders
from bench.simulation.instance import Batching
from bench.simulation.mechanisms import mechanisms
from bench.simulation.requests import workloads_of
from bench.simulation.run import Run
from bench.simulation.search import Search, fluid_bound
from bench.simulation.tables import print_tables, tabulate

DEGREES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Case:
    """One contender on one workload of one seed. rate: None to search for the highest."""

    device: str
    traces: tuple[Path, ...]
    size: float
    workload: str
    seed: int
    contender: str
    batching: Batching
    workers: int
    hosts: int
    rate: float | None


def main() -> int:
    options = parse()
    batching = Batching(options.batching == "mixed", options.chunk_tokens)
    cases = [
        Case(
            device, tuple(options.trace), options.size, workload, seed, contender=contender,
            batching=batching, workers=options.workers, hosts=options.hosts, rate=options.rate,
        )
        for device in options.device
        for workload in options.workload or workload_names(options.trace)
        for seed in options.seed
        for contender in options.contender or contender_names(options, device)
    ]  # fmt: skip
    start, rows = time.monotonic(), []
    for number, row in enumerate(play(cases, options.processes), 1):
        rows.append(row)
        left = (time.monotonic() - start) / number * (len(cases) - number)
        print(
            f"SIMULATED [{number}/{len(cases)}, {left / 60:.0f} min left] {line(row)}", flush=True
        )
    tables = {} if options.rate is not None else tabulate(rows)
    figures = {
        "kind": "SIMULATED",
        "assumptions": assumptions(options.device[0]),
        "batching": asdict(batching),
        "hosts": options.hosts,
        "workers": options.workers,
        "tables": tables,
        "cases": rows,
    }
    path = results_file.write(options.name, figures)
    if options.rate is None:
        print_tables(tables)
        draw_simulation(results_file.read(path.stem))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trace", type=Path, action="append", required=True, metavar="CSV")
    parser.add_argument("--device", action="append", metavar="NAME|FILE", help="repeatable")
    parser.add_argument("--workload", action="append", help="of the traces' (default: all)")
    parser.add_argument("--contender", action="append", help="repeatable (default: all)")
    parser.add_argument("--seed", type=int, action="append", help="repeatable (default: 1)")
    parser.add_argument("--size", type=float, default=1.0, help="scales the number of requests")
    parser.add_argument("--workers", type=int, default=8, help="of a host (default: 8)")
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--rate", type=float, help="requests a second of all hosts together")
    parser.add_argument(
        "--batching",
        choices=("mixed", "upstream"),
        default="mixed",
        help="whether a worker decodes beside its own prefill chunk",
    )
    parser.add_argument("--chunk-tokens", type=int, default=8192)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--name", default="simulation", help="of the results file")
    options = parser.parse_args()
    options.device = options.device or ["h100-96-32b-tp-loss", "h100-96-32b-roofline"]
    options.seed = options.seed or [1]
    for path in options.trace:
        if not path.is_file():
            parser.error(f"--trace {path}: no such file")
    known = workload_names(options.trace)
    for name in options.workload or ():
        if name not in known:
            parser.error(f"--workload {name}: not one of {', '.join(known)}")
    try:
        for device in options.device:
            load_device(device)
            names = contender_names(options, device)
            for name in options.contender or ():
                if name not in names:
                    raise ConfigError(f"--contender {name}: not one of {', '.join(names)}")
    except AmoebaError as error:
        parser.error(f"{error}; devices: {', '.join(device_names())}")
    return options


def workload_names(traces: list[Path]) -> list[str]:
    return [name for path in traces for name in workloads_of(path)]


def degrees_of(workers: int) -> tuple[int, ...]:
    return tuple(degree for degree in DEGREES if workers % degree == 0)


def contender_names(options: argparse.Namespace, device: str) -> list[str]:
    found = mechanisms(load_device(device), degrees_of(options.workers))
    names = list(contenders(found, options.workers))
    return names if options.rate is not None else ["fluid bound", *names]


def assumptions(device: str) -> dict[str, str]:
    found = mechanisms(load_device(device), DEGREES)
    return {name: mechanism.assumptions for name, mechanism in found.items()}


def play(cases: list[Case], processes: int) -> Iterator[dict[str, Any]]:
    """Every case, in order."""
    if processes == 1:
        yield from map(play_case, cases)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(play_case, cases)


def play_case(case: Case) -> dict[str, Any]:
    makers = {
        name: maker for path in case.traces for name, maker in workloads_of(path, case.size).items()
    }
    workload = makers[case.workload](case.seed)
    found = mechanisms(load_device(case.device), degrees_of(case.workers))
    row: dict[str, Any] = {
        "device": case.device,
        "workload": case.workload,
        "changes": workload.changes,
        "requests": len(workload),
        "seed": case.seed,
        "contender": case.contender,
    }
    start = time.monotonic()
    if case.contender == "fluid bound":
        statics = static_contenders(found, case.workers)
        bounds = fluid_bound(statics, workload, case.batching, case.workers)
        row["a"], row["b"] = (case.hosts * bound for bound in bounds)
    else:
        contender = contenders(found, case.workers)[case.contender]
        shape = case.batching, case.workers, case.hosts
        if case.rate is not None:
            row["outcome"] = asdict(Run(contender, workload, case.rate, *shape).play(endless=True))
        else:
            sustained = Search(contender, workload, *shape).find(8.0 * case.hosts)
            for key, outcome in (("a", sustained.completes), ("b", sustained.meets_slo)):
                row[key] = 0.0 if outcome is None else outcome.completed
                row[f"outcome_{key}"] = None if outcome is None else asdict(outcome)
                row["rejected"] = 0 if outcome is None else outcome.rejected
    row["seconds"] = round(time.monotonic() - start, 1)
    return row


def line(row: dict[str, Any]) -> str:
    what = f"{row['device']} | {row['workload']} | seed {row['seed']} | {row['contender']}"
    if "a" in row:
        rejected = f", {row['rejected']} rejected" if row.get("rejected") else ""
        return f"{what}: {row['a']:.2f} (a), {row['b']:.2f} (b) requests/s{rejected}"
    outcome = row["outcome"]
    return (
        f"{what}: {outcome['completed']:.2f} requests/s, {outcome['tokens']:.0f} tokens/s, median "
        f"TTFT {outcome['short_ttft_median']:.2f} s, TPOT {1000 * outcome['token_median']:.0f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
