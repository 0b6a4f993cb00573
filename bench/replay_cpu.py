"""Policies on a real trace with a real model on the CPU: python -m bench.replay_cpu TRACE.csv.

    python -m bench.replay_cpu TRACE.csv [--workers 2 4] [--cases amoeba static ...]

The trace is thinned and scaled so that its longest requests do not fit one worker. It is replayed
against one server after the other: the policies amoeba, round_robin and least_load, all static
layouts, and a server that is restarted for long requests. Outputs are compared with a server whose
pool is large enough at degree 1, and the tokens that workers prefilled with those that they had to.
Every server that begins at degree 1 is also simulated, with the step costs that it has measured of
itself, to show how near the simulator comes.
No speed-up is to be seen here: all layouts share the same cores. About 15 minutes a group size.
"""

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amoeba_sglang.control.policy.throughput import ThroughputTable
from amoeba_sglang.errors import ConfigError
from bench import results_file
from bench.charts import replay as charts
from bench.prompts import PromptMaker
from bench.replay import (
    Measured,
    add_objective,
    add_recipe,
    describe_recipe,
    load_prompts,
    measure,
    prepare,
    read_objective,
)
from bench.replay_client import OneServer
from bench.restarts import RestartedServer
from bench.simulation.replayed import batching_of, measured_mechanism, simulate_replay
from bench.trace import Workload
from tests.serving.servers import MODEL, Server

POOL, REFERENCE_POOL = 512, 16384
POLICIES = ("amoeba", "round_robin", "least_load")
CASES = (*POLICIES, "static", "restart")
# Degrees of the instances of every static layout.
LAYOUTS = {2: ((1, 1), (2,)), 4: ((1, 1, 1, 1), (2, 1, 1), (2, 2), (4,))}
CHUNK_TOKENS = 256
BODY = {"model": "default", "temperature": 0, "ignore_eos": True}


def main() -> int:
    options = make_parser().parse_args()
    try:
        workload, statement = prepare(options)
        prompts = load_prompts(MODEL, options.seed)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for workers in options.workers:
        figures = Comparison(workers, workload, prompts, statement, options).run()
        results_file.write(
            f"{options.name}_n{workers}",
            {
                "pool_tokens_of_a_worker": POOL,
                "workload": statement,
                "slo": asdict(read_objective(options)),
                **figures,
            },
        )
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", choices=sorted(LAYOUTS), default=[2, 4])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--name", default="replay_cpu", help="of the files that are written")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one request")
    add_recipe(parser)
    add_objective(parser)
    parser.set_defaults(
        rows=240, keep=0.2, spread=3.0, scale=1 / 64, speed=1.5, long_tokens=POOL, slo_tpot=0.5
    )
    return parser


class Comparison:
    """All cases with one group size; `expected` are the outputs of the reference."""

    def __init__(
        self,
        workers: int,
        workload: Workload,
        prompts: PromptMaker,
        statement: dict[str, Any],
        options: argparse.Namespace,
    ) -> None:
        self.workers, self.workload, self.prompts = workers, workload, prompts
        self.statement, self.options = statement, options
        self.objective = read_objective(options)
        self.expected: list[str] | None = None

    def run(self) -> dict[str, Any]:
        """Figures by case, and by layout where it is static."""
        found = {"reference": self.run_reference()}
        for case in self.options.cases:
            if case == "static":
                found.update(self.run_static())
            elif case == "restart":
                found[case] = asyncio.run(self.run_restarts())
            else:
                with self.make_server("--amoeba-policy", case) as server:
                    found[case] = self.measure(case, server)
        return found

    def run_reference(self) -> dict[str, Any]:
        with self.make_server("--amoeba-policy", "static", pool=REFERENCE_POOL) as server:
            return self.measure("reference", server)

    def run_static(self) -> dict[str, Any]:
        found = {}
        with self.make_server("--amoeba-policy", "static") as server:
            for layout in LAYOUTS[self.workers]:
                set_layout(server, layout)
                name = f"static {'+'.join(map(str, layout))}"
                found[name] = self.measure(name, server)
                server.post("/flush_cache", {})
        return found

    async def run_restarts(self) -> dict[str, Any]:
        def make(degree: int) -> Server:
            return self.make_server(
                "--amoeba-policy", "static", "--amoeba-initial-degree", str(degree)
            )

        # What a worker keeps back of its slots is far below the difference of two requests.
        target = RestartedServer(make, self.workers, own_tokens=POOL - 8)
        async with target.serve():
            measured = await measure(
                target, None, self.workload, self.prompts, BODY, timeout=self.options.timeout
            )
        return {
            **self.report("restart", measured),
            "restarts": [
                {"degree": degree, "seconds": seconds} for degree, seconds in target.restarts
            ],
        }

    def make_server(self, *args: str, pool: int = POOL) -> Server:
        flags = (
            f"--tp-size {self.workers} --dtype float32 --max-total-tokens {pool} "
            f"--chunked-prefill-size {CHUNK_TOKENS} --enable-cache-report --enable-metrics"
        )
        return Server(*flags.split(), *args)

    def measure(self, case: str, server: Server) -> dict[str, Any]:
        before = count_work(server)
        measured = asyncio.run(
            measure(
                OneServer(server.url), server.url, self.workload, self.prompts, BODY,
                timeout=self.options.timeout,
            )
        )  # fmt: skip
        figures = self.report(case, measured)
        work = {name: n - before[name] for name, n in count_work(server).items()}
        tokens = figures["prompt_tokens"]
        again = work["prefilled_tokens"] - (tokens["counted"] - tokens["cached"])
        figures["work"] = {**work, "prefilled_again": again}
        assert measured.layout is not None
        if max(measured.layout.changes[0][1]) == 1:
            figures["SIMULATED"] = self.simulate(case, figures, measured.layout.last)
        return figures

    def simulate(
        self, case: str, figures: dict[str, Any], state: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The same replay at the step costs of `state`; None if it holds too little of them."""
        if state["throughput"] is None:
            return None
        policy = case if case in POLICIES else "static"
        mechanism = measured_mechanism(ThroughputTable.from_json(json.dumps(state["throughput"])))
        outcome = simulate_replay(
            self.workload, policy, mechanism, self.workers,
            batching_of(CHUNK_TOKENS, mixed=False, ahead=False),
            long_tokens=self.objective.long_tokens,
        )  # fmt: skip
        return {
            "requests_per_s": outcome.completed,
            "short_ttft_median": outcome.short_ttft_median,
            "ratio": {
                "requests_per_s": outcome.completed / figures["completed"]["requests_per_s"],
                "short_ttft_median": outcome.short_ttft_median / figures["ttft_s"]["short"]["p50"],
            },
        }

    def report(self, case: str, measured: Measured) -> dict[str, Any]:
        """Figures, a picture, and a line for whoever waits."""
        outcomes = measured.outcomes
        if self.expected is None:
            self.expected = [outcome.text for outcome in outcomes]
        figures = measured.figures(self.objective)
        figures["outputs_that_differ"] = sum(
            outcome.kind == "done" and outcome.text != text
            for outcome, text in zip(outcomes, self.expected, strict=True)
        )
        figures["rejected_though_a_layout_holds_it"] = sum(
            outcome.kind == "rejected" and "no layout" not in outcome.error for outcome in outcomes
        )
        name = f"{self.options.name}_n{self.workers}_{case.replace(' ', '_').replace('+', '')}"
        title = f"{case}, {self.workers} workers | {describe_recipe(self.statement)}"
        charts.draw_replay(name, title, outcomes, self.objective, measured.layout)
        print(
            f"{case}: {figures['requests']}, {figures['outputs_that_differ']} outputs differ, "
            f"{figures['completed']['tokens_per_s']:.0f} tokens/s, TTFT of short requests "
            f"{figures['ttft_s']['short']}",
            flush=True,
        )
        return figures


def set_layout(server: Server, degrees: tuple[int, ...]) -> None:
    """Bring the server to instances of these degrees, by way of degree 1."""
    wanted = [(instance["ranks"], 1) for instance in server.state()["instances"]]
    first = 0
    for degree in degrees:
        wanted.append((list(range(first, first + degree)), degree))
        first += degree
    for ranks, degree in wanted:
        status, reply = server.transform(ranks, degree)
        if status != 200:
            raise RuntimeError(f"ranks {ranks} to degree {degree}: {status} {reply}")


def count_work(server: Server) -> dict[str, int]:
    """What all workers have done since they started: tokens prefilled, requests retracted."""
    samples = [line for line in server.get("/metrics").splitlines() if line[:1] != "#"]

    def total(metric: str, label: str = "") -> int:
        chosen = (line for line in samples if line.startswith(f"sglang:{metric}{{"))
        return sum(int(float(line.split()[-1])) for line in chosen if label in line)

    return {
        "prefilled_tokens": total("realtime_tokens_total", 'mode="prefill_compute"'),
        "retracted_requests": total("num_retracted_requests_total"),
    }


if __name__ == "__main__":
    sys.exit(main())
