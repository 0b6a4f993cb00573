"""Merge and split for a long time under load: python -m bench.soak [--cycles 500] [--workers 2].

A cycle is two transformations of a random walk over the layouts. The load is streaming clients with
long outputs in a small pool, random disconnects and aborts, long prompts, and idle spells. Exit
code 1 if a request or a transformation went wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
import tempfile
import time
from typing import Any

from bench import results_file
from bench.footprint import growth, sample
from bench.soak_load import Gaps, Sizes, SoakLoad
from bench.soak_probe import probe_decode, probe_prefill
from bench.soak_walk import Walk
from tests.serving.servers import MODEL, Server
from tests.serving.shallow_model import make_shallow

SAMPLE_EVERY = 20
REPORT_EVERY = 10
IDLE_SECONDS = 1.5
PROBES = 4
RETRACTED = re.compile(r"#retracted_reqs: (\d+)")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cycles", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=60.0, help="end earlier after this time")
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--pool", type=int, default=3072, help="--max-total-tokens of the server")
    parser.add_argument("--idle-every", type=int, default=100, help="cycles between idle spells")
    parser.add_argument("--pause", type=float, default=0.2, help="most seconds between changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, help="only the first so many of the model")
    parser.add_argument(
        "--audit", action=argparse.BooleanOptionalAction, default=True,
        help="audit slots in the workers; times of transformations need --no-audit",
    )  # fmt: skip
    parser.add_argument("--name", default="soak", help="of the file in bench/results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Server(
        "--tp-size", str(options.workers), "--dtype", "float32",
        "--max-total-tokens", str(options.pool), "--chunked-prefill-size", "512",
        # The walk alone changes the layout.
        "--amoeba-policy", "static",
        # Admit more than fits, so that running requests are retracted, and forget at once that
        # they were, so that it happens again.
        "--schedule-conservativeness", "0.1",
        env={
            "AMOEBA_AUDIT": str(int(options.audit)),
            "SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS": "1",
        },
        model=choose_model(options.layers, folder),
    ) as server:  # fmt: skip
        print(f"ready after {server.start_seconds:.0f} s, log {server.log}", flush=True)
        figures = Soak(server, options).run()
    results_file.write(options.name, {"settings": vars(options), **figures})
    return 1 if figures["failed"] else 0


def choose_model(layers: int | None, folder: str) -> str:
    return MODEL if layers is None else str(make_shallow(folder, layers, source_dir=MODEL))


class Soak:
    """One server under load: probes, then cycles, then the same probes."""

    def __init__(self, server: Server, options: argparse.Namespace) -> None:
        self.server, self.options = server, options
        self.rng = random.Random(options.seed)
        self.walk = Walk(server, options.workers, self.rng)
        self.samples: list[tuple[float, dict[str, Any]]] = []
        self.cycles = self.idle_spells = 0
        self.problems: list[str] = []

    def run(self) -> dict[str, Any]:
        probes: dict[str, Any] = {}
        load: SoakLoad | None = None
        try:
            probes["before the first merge"] = self.probe()
            self.first_merge(probes)
            load = asyncio.run(self.soak())
            if not self.problems:
                self.walk.settle(1)
                probes["at the end"] = self.probe()
                self.walk.settle(self.options.workers)
                probes["at the end, merged"] = self.probe()
        except (RuntimeError, OSError) as error:
            self.problems.append(f"outside of the cycles: {type(error).__name__}: {error}")
        return self.figures(probes, load)

    def figures(self, probes: dict[str, Any], load: SoakLoad | None) -> dict[str, Any]:
        """All that was seen; `load` is None if the server failed before it began."""
        retracted = [int(n) for n in RETRACTED.findall(self.server.log.read_text(errors="replace"))]
        transformations = self.walk.figures(load.gaps if load else Gaps())
        failed = bool(self.walk.problems or self.problems or (load and load.broken()))
        return {
            "failed": failed,
            "problems": self.problems,
            "server_exit_code": self.server.process.poll(),
            "server_log_tail": self.server.tail(40).splitlines() if failed else [],
            "cycles": self.cycles,
            "idle_spells": self.idle_spells,
            "requests": dict(load.outcomes) if load else {},
            "request_problems": load.problems[:20] if load else [],
            "output_tokens": load.tokens if load else 0,
            "retractions": {"times": len(retracted), "requests": sum(retracted)},
            "transformations": transformations,
            "probes": probes,
            "growth_per_100_cycles": growth(self.samples, 100) if self.samples else {},
            "samples": self.samples,
        }

    def probe(self) -> dict[str, Any]:
        """Decode and prefill on the quiet server at its present degree, several times.

        The same probe differs by a factor of 1.7 between runs of an otherwise idle machine, so the
        fastest of each is what to compare.
        """
        ranks = range(self.options.workers)
        decodes = [probe_decode(self.server, ranks) for _ in range(PROBES)]
        prefills = [
            probe_prefill(self.server, self.rng.randrange(10**6))["seconds_per_chunk"]
            for _ in range(PROBES)
        ]
        found = {
            "decode_ms": min(decode["median_ms"] for decode in decodes),
            "prefill_s_per_chunk": min(prefills),
            "decodes": decodes,
            "prefills": prefills,
        }
        print(f"probe at {self.walk.layout.degrees}: {found}", flush=True)
        return found

    def first_merge(self, probes: dict[str, Any]) -> None:
        """Merge in the middle of a chunked prefill, probe, split, and probe again."""
        everyone = list(range(self.options.workers))
        across = probe_prefill(self.server, self.rng.randrange(10**6), merge=everyone)
        probes["prefill across the first merge"] = across
        print(f"first merge within a chunked prefill: {across}", flush=True)
        self.walk.follow_server()
        probes["merged"] = self.probe()
        self.walk.settle(1)
        probes["after the first split"] = self.probe()

    async def soak(self) -> SoakLoad:
        load = SoakLoad(self.server.url, self.options.clients, Sizes(), self.options.seed)
        deadline = time.monotonic() + 60 * self.options.minutes
        try:
            while self.cycles < self.options.cycles and time.monotonic() < deadline:
                await self.cycle(load)
                if self.server.process.poll() is not None:
                    self.problems.append("the server ended")
                    break
        except (OSError, TimeoutError) as error:
            self.problems.append(f"cycle {self.cycles}: {type(error).__name__}: {error}")
        finally:
            await load.close()
        return load

    async def cycle(self, load: SoakLoad) -> None:
        if self.cycles % self.options.idle_every == self.options.idle_every - 1:
            await self.be_idle(load)
        for _ in range(2):
            await asyncio.to_thread(self.walk.step)
            await asyncio.sleep(self.rng.random() * self.options.pause)
        if self.cycles % SAMPLE_EVERY == 0:
            self.samples.append((self.cycles, await asyncio.to_thread(sample, self.server)))
        self.cycles += 1
        if self.cycles % REPORT_EVERY == 0:
            print(
                f"cycle {self.cycles}: requests {dict(load.outcomes)}, transformations "
                f"{dict(self.walk.outcomes)}, {load.tokens} tokens",
                flush=True,
            )

    async def be_idle(self, load: SoakLoad) -> None:
        """Drain, transform without load, stay idle (workers audit their slots), go on.

        Every second spell aborts what runs instead of letting it end.
        """
        self.idle_spells += 1
        await load.pause(abort=self.idle_spells % 2 == 0)
        for _ in range(3):
            await asyncio.to_thread(self.walk.step)
        await asyncio.sleep(IDLE_SECONDS)
        state = await asyncio.to_thread(self.server.state)
        left = [i for i in state["instances"] if i["running"] or i["queued"]]
        if left:
            self.problems.append(f"cycle {self.cycles}: requests left while idle: {left}")
        load.resume()


if __name__ == "__main__":
    sys.exit(main())
