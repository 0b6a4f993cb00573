"""Change the layout for a long time under load, and compare every output with its reference.

    python -m bench.soak [--workers 2|4] [--policy static|amoeba] [--whole] [--transformations 500]

Pools are so small that requests are retracted, slots are lent and moved, and votes are refused all
the time; workers audit all their slots. With `static` an operator walks from layout to layout
without pause, with `amoeba` requests that no worker holds come in waves. Clients use every feature
that is served, and leave or abort some of their requests. Now and then all is quiet: then nothing
may be left, and KV and weights must be bit for bit the same after a merge and a split.

A run ends after --transformations, or after --minutes, or with a fault; the sums of all runs of
this version of the package are in bench/results/soak.json. `--layers-per-step 1` passes every
boundary b: the table says what happened at each. Exit code 0: the sum is reached without a fault,
2: not reached yet, 1: a fault.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path

from bench.soak import results
from bench.soak.cases import Case, Catalogue
from bench.soak.reference import References
from bench.soak.run import Run, Setting
from tests.serving.servers import MODEL, Server
from tests.serving.shallow_model import make_shallow

LAYERS = 6
# Of the longest request: what two workers hold, and a little less.
MOST = 6000
_CONTEXT = 8192


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, choices=(2, 4))
    parser.add_argument("--policy", default="static", choices=("static", "amoeba"))
    parser.add_argument("--whole", action="store_true", help=f"not only the first {LAYERS} layers")
    parser.add_argument("--transformations", type=int, default=500, help="in all runs together")
    parser.add_argument("--minutes", type=float, default=20.0, help="of this run at most")
    parser.add_argument("--clients", type=int, default=0, help="default: 4 for each worker")
    parser.add_argument("--pool", type=int, default=512, help="--max-total-tokens of the server")
    parser.add_argument("--layers-per-step", default="auto", help="--amoeba-layers-per-step")
    parser.add_argument("--seed", type=int, default=0, help="of walk and load")
    parser.add_argument("--references", type=Path, default=Path(".cache/soak"), help="folder")
    options = parser.parse_args()
    setting = Setting(
        options.workers, options.policy, 0 if options.whole else LAYERS, options.layers_per_step
    )
    left = options.transformations - results.transformations(setting)
    if left <= 0:
        print("reached already")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        model = choose_model(setting.layers or None, folder)
        cases = Catalogue(1, options.pool, MOST).make(0.4 if options.whole else 1.0)
        name = f"{setting.layers or 'all'}_layers_pool_{options.pool}.json"
        references = References(options.references / name)
        if references.lacks(cases):
            take_references(references, cases, model)
        cases = references.complete(cases)
        with start_server(setting, options.pool, model) as server:
            print(f"ready after {server.start_seconds:.0f} s, log {server.log}", flush=True)
            clients = options.clients or 4 * setting.workers
            run = Run(server, setting, cases, references, clients=clients, seed=options.seed)
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(run.go(left, 60 * options.minutes))
            found = run.figures()
    path = results.add(setting, {"seed": options.seed, **found})
    print(f"{path}\n{results.summarise(found)}")
    return 1 if found["problems"] else 0 if found["transformations"] >= left else 2


def choose_model(layers: int | None, folder: str) -> str:
    return MODEL if layers is None else str(make_shallow(folder, layers, source_dir=MODEL))


def take_references(references: References, cases: list[Case], model: str) -> None:
    """Ask a server with room for all of them, which stays at degree 1."""
    flags = [
        "--tp-size", "2", "--dtype", "float32", "--max-total-tokens", str(_CONTEXT + 64),
        "--chunked-prefill-size", "512", "--amoeba-policy", "static",
        "--served-model-name", "default",
    ]  # fmt: skip
    with Server(*flags, model=model) as server:
        print(f"references of {len(cases)} cases, log {server.log}", flush=True)
        references.take(server.url, cases)


def start_server(setting: Setting, pool: int, model: str) -> Server:
    flags = [
        "--tp-size", str(setting.workers), "--dtype", "float32", "--max-total-tokens", str(pool),
        "--chunked-prefill-size", "128", "--max-running-requests", "32",
        "--amoeba-policy", setting.policy, "--amoeba-layers-per-step", setting.layers_per_step,
        "--enable-priority-scheduling", "--enable-metrics", "--served-model-name", "default",
        # Votes may be late.
        "--amoeba-prepare-timeout-s", "2",
        # Admit more than fits, so that running requests are retracted, and forget at once that
        # they were, so that it happens again.
        "--schedule-conservativeness", "0.05",
    ]  # fmt: skip
    environment = {"SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS": "1"}
    return Server(*flags, module="tests.serving.audited", env=environment, model=model)


if __name__ == "__main__":
    sys.exit(main())
