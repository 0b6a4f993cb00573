"""Hostile requests beside ordinary streams and transformations.

    python -m bench.hostile [--requests 1000] [--seed 0] [--workers 2]

Requests are made from the server's own schemas: every field at, below and above its range, of
wrong types, absent, huge, and prompts and outputs as long as a prefill chunk, a worker's pool, a
merged instance and the context. A third comes at degree 1, a third merged, a third during changes.
Every answer must be a 4xx that names what is wrong, or right; no death, no hang, no stream harmed,
nothing left behind, and the memory of the front end flat (median of the last third of the samples
against that of the middle third). Exit code 1 if not.
"""

import argparse
import asyncio
import contextlib
import io
import sys
import tempfile

from bench import results_file
from bench.hostile.bodies import MODEL_NAME
from bench.hostile.generator import Generator
from bench.hostile.python_types import vague_fields
from bench.hostile.ranges import Bounds
from bench.hostile.report import figures, summarise
from bench.hostile.run import Plan, Run
from bench.hostile.schema import read_routes
from bench.soak.__main__ import choose_model
from tests.serving.servers import Server

POOL, CHUNK = 512, 256
VOCABULARY = 49152


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--layers", type=int, default=6, help="only the first so many; 0 for all")
    parser.add_argument("--only", default="", help="a route")
    parser.add_argument("--concurrency", type=int, default=4, help="hostile requests at once")
    parser.add_argument("--transformations", type=int, default=100, help="at least")
    parser.add_argument("--deaths", type=int, default=10, help="give up after more")
    parser.add_argument("--name", default="", help="of the file in bench/results")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        start_server(options.workers, options.layers, folder) as server,
    ):
        print(f"ready after {server.start_seconds:.0f} s, log {server.log}", flush=True)
        generator = make_generator(server, options.workers, options.seed, options.only)
        cases = generator.make(options.requests)
        plan = Plan(
            cases, options.workers, options.concurrency,
            transformations=options.transformations, most_deaths=options.deaths,
        )  # fmt: skip
        run = Run(plan, server)
        asyncio.run(run.go())
    found = {"settings": vars(options), **figures(run, cases, generator.missed)}
    # The file is long; what it says in short follows.
    with contextlib.redirect_stdout(io.StringIO()):
        path = results_file.write(options.name or f"hostile_n{options.workers}", found)
    print(f"{path}\n{summarise(found)}")
    return 1 if found["failed"] else 0


def start_server(workers: int, layers: int, folder: str) -> Server:
    flags = {
        "--tp-size": workers,
        "--dtype": "float32",
        "--max-total-tokens": POOL,
        "--chunked-prefill-size": CHUNK,
        "--max-running-requests": 64,
        "--amoeba-policy": "static",
        "--served-model-name": MODEL_NAME,
    }
    given = (str(part) for flag in flags.items() for part in flag)
    model = choose_model(layers or None, folder)
    return Server(*given, model=model, module="tests.serving.audited")


def make_generator(
    server: Server, workers: int, seed: int, only: str = "", model: str = MODEL_NAME
) -> Generator:
    """For a server that runs at degree 1 and calls its model so; reads its schemas and limits."""
    routes = read_routes(server.get("/openapi.json"), vague_fields())
    own, ranks = server.state()["max_request_tokens"], list(range(workers))
    chosen = server.get("/server_info")
    assert server.transform(ranks, workers)[0] == 200
    bounds = Bounds(
        vocabulary=VOCABULARY,
        chunk=chosen["chunked_prefill_size"],
        own=own,
        most=server.state()["max_request_tokens"],
        context=server.get("/v1/models")["data"][0]["max_model_len"],
        workers=workers,
    )
    assert server.transform(ranks, 1)[0] == 200
    return Generator(routes, bounds, seed, only, model)


if __name__ == "__main__":
    sys.exit(main())
