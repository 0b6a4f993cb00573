"""Replay a request trace against any OpenAI-compatible server.

    python -m bench.replay TRACE.csv --tokenizer DIR [--url http://127.0.0.1:30000] [--name NAME]
        [--rows 2000 --spread 3 --keep 0.1 --scale 0.03 --long-percent 0.1 --long-input 130000 ...]

The trace is a CSV file with the columns timestamp_s, input_tokens and output_tokens. Prompts have
exactly so many tokens of random words, outputs exactly so many tokens where the server knows
`ignore_eos`. Requests are sent at their arrival times, whatever the server does. If the server has
/amoeba/state, its layout is recorded; if that says that the server is emulated, all times are those
of the emulated device. Writes bench/results/NAME.json and bench/figures/NAME.png.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tqdm import tqdm

from amoeba_sglang.errors import ConfigError
from bench import results_file
from bench.charts import replay as charts
from bench.layout_record import LayoutRecord, describe_emulation, dilation_of
from bench.prompts import PromptMaker
from bench.replay_client import OneServer, Replay, Target, fetch_state, watch_layout
from bench.replay_metrics import Objective, Outcome, summarise
from bench.trace import Recipe, Workload, read_trace


def main() -> int:
    options = make_parser().parse_args()
    try:
        workload, statement = prepare(options)
        run(options, workload, statement)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:30000", help="base URL of the server")
    parser.add_argument("--tokenizer", required=True, help="directory of the served tokenizer")
    parser.add_argument("--model", default="default", help="name of the model in requests")
    parser.add_argument("--name", default="replay", help="of the files that are written")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for one request")
    parser.add_argument(
        "--ignore-eos", action=argparse.BooleanOptionalAction, default=True,
        help="send ignore_eos, an extension that SGLang and vLLM know",
    )  # fmt: skip
    add_recipe(parser)
    add_objective(parser)
    return parser


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Options named like the fields of Recipe."""
    group = parser.add_argument_group("the trace")
    group.add_argument("--rows", type=int, help="only the first so many rows")
    group.add_argument("--keep", type=float, default=1.0, help="share of rows kept, each drawn")
    group.add_argument("--spread", type=float, default=0.0, help="draw arrivals from so many s")
    group.add_argument("--scale", type=float, default=1.0, help="factor of all lengths")
    group.add_argument("--max-input", type=int, help="clip prompts to so many tokens")
    group.add_argument("--max-output", type=int, help="clip outputs to so many tokens")
    group.add_argument(
        "--long-percent", type=float, default=0.0, help="percent of requests made long ones"
    )
    group.add_argument("--long-input", type=int, default=0, help="tokens of their prompts")
    group.add_argument("--long-output", type=int, default=0, help="tokens of their outputs")
    group.add_argument(
        "--speed", type=float, default=1.0, help="arrivals come so many times as fast"
    )
    group.add_argument("--seed", type=int, default=0, help="of all draws and of the prompts")


def add_objective(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the SLO")
    group.add_argument("--slo-ttft", type=float, default=10.0, help="s, of short requests")
    group.add_argument("--slo-tpot", type=float, default=0.1, help="s a token, of all requests")
    group.add_argument("--slo-long-ttft", type=float, help="s, of long requests (no bound)")
    group.add_argument(
        "--long-tokens", type=int, default=32768, help="a request of so many tokens is long"
    )


def prepare(options: argparse.Namespace) -> tuple[Workload, dict[str, Any]]:
    """The workload that the options ask for, and the statement that goes with every figure."""
    recipe = Recipe(**{name: getattr(options, name) for name in Recipe.__dataclass_fields__})
    workload = recipe.apply(read_trace(options.trace))
    return workload, state_workload(options.trace, recipe, workload)


def state_workload(trace: Path, recipe: Recipe, workload: Workload) -> dict[str, Any]:
    requests = workload.requests
    return {
        "trace": trace.name,
        "recipe": asdict(recipe),
        "requests": len(requests),
        "clipped": workload.clipped,
        "mixed_in": workload.mixed_in,
        "span_s": workload.span,
        "input_tokens": sum(request.input_tokens for request in requests),
        "output_tokens": sum(request.output_tokens for request in requests),
    }


def describe_recipe(statement: dict[str, Any]) -> str:
    """The trace and what was changed of it, in one line."""
    recipe, plain = statement["recipe"], asdict(Recipe())
    changes = [f"{name} {value}" for name, value in recipe.items() if value != plain[name]]
    return ", ".join([statement["trace"], *changes, f"{statement['requests']} requests"])


def read_objective(options: argparse.Namespace) -> Objective:
    return Objective(options.slo_ttft, options.slo_tpot, options.slo_long_ttft, options.long_tokens)


def load_prompts(directory: str, seed: int) -> PromptMaker:
    from transformers import AutoTokenizer

    try:
        return PromptMaker(AutoTokenizer.from_pretrained(directory), seed)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--tokenizer {directory}: {reason}") from None


def run(options: argparse.Namespace, workload: Workload, statement: dict[str, Any]) -> None:
    """Replay, and write what was measured."""
    objective = read_objective(options)
    prompts = load_prompts(options.tokenizer, options.seed)
    body = {"model": options.model, "temperature": 0}
    if options.ignore_eos:
        body["ignore_eos"] = True
    measured = asyncio.run(
        measure(
            OneServer(options.url), options.url, workload, prompts, body, timeout=options.timeout
        )
    )
    parts = [measured.label, options.name, describe_recipe(statement)]
    title = " | ".join(filter(None, parts))
    figures = measured.figures(objective)
    picture = charts.draw_replay(options.name, title, measured.outcomes, objective, measured.layout)
    results_file.write(
        options.name,
        {**figures, "workload": statement, "slo": asdict(objective), "url": options.url},
    )
    print(f"{title}\nsee {picture}")


@dataclass(frozen=True)
class Measured:
    """What came of a replay; `layout` is None if the server does not tell."""

    outcomes: list[Outcome]
    layout: LayoutRecord | None

    @property
    def label(self) -> str | None:
        """What every output must say first."""
        return None if self.layout is None else describe_emulation(self.layout.last)

    def figures(self, objective: Objective) -> dict[str, Any]:
        figures = summarise(self.outcomes, objective)
        if self.layout is None:
            return figures
        figures["layout"] = self.layout.describe(figures["seconds"])
        if self.label is None:
            return figures
        return {"EMULATED": {"label": self.label, **self.layout.last["EMULATED"]}, **figures}


async def measure(
    target: Target,
    state_url: str | None,
    workload: Workload,
    prompts: PromptMaker,
    body: dict[str, Any],
    *,
    timeout: float,
) -> Measured:
    """Replay with a progress bar, and record the layout of the server at `state_url`, if any."""
    state = None
    if state_url is not None:
        async with aiohttp.ClientSession() as session:
            state = await fetch_state(session, state_url)
    dilation = 1.0 if state is None else dilation_of(state)
    with ProgressBar(len(workload.requests)) as bar:
        replay = Replay(target, prompts, body, timeout, bar.count, dilation=dilation)
        if state is None:
            return Measured(await replay.run(workload.requests), None)
        layout = LayoutRecord(state)
        watch = asyncio.create_task(watch_layout(state_url, layout, replay.clock))
        try:
            outcomes = await replay.run(workload.requests)
        finally:
            watch.cancel()
    return Measured(outcomes, layout)


class ProgressBar:
    """Requests that have ended, on stderr."""

    def __init__(self, total: int) -> None:
        self._bar = tqdm(total=total, unit="req", desc="replay", smoothing=0)
        self._kinds: Counter[str] = Counter()

    def count(self, outcome: Outcome) -> None:
        self._kinds[outcome.kind] += 1
        self._bar.set_postfix(self._kinds, refresh=False)
        self._bar.update()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()


if __name__ == "__main__":
    sys.exit(main())
