"""Everything that can happen to a request, at every boundary b, and still every token is right.

    python -m bench.boundaries [--workers 2] [--minutes 25]

One layer moves a step, so every b from 0 to L is passed. Requests come, end, are aborted and, in a
small pool, retracted, while the layout cycles through every change; workers audit all their slots
and say what happens in each step. This goes on until all of it has happened at every b of merges
and of splits. Completions are compared token for token with those of the same server left alone,
and log-probabilities of a prompt and of its output while b passes through them.

Exit code 1 if anything differs, or if something has not happened at some b when time is over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from typing import Any

from bench import results_file
from bench.equality import TOURS
from tests.serving.load import chat_prompts, new_session, run_clients, stream_chat
from tests.serving.servers import Server

EVENTS = ("prefill", "decode", "arrived", "finished", "aborted", "retracted")
TOLERANCE = 1e-4
_STEP = re.compile(r"joint step (\{.*\})")
_CHUNK = 16
_LEAVERS, _OUTPUT = 6, 24


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, choices=sorted(TOURS))
    parser.add_argument("--minutes", type=float, default=25.0, help="of streams at most")
    options = parser.parse_args()
    with Server(
        "--tp-size", str(options.workers), "--dtype", "float32", "--max-total-tokens", "600",
        "--chunked-prefill-size", str(_CHUNK), "--max-running-requests", "64",
        "--amoeba-policy", "static", "--amoeba-layers-per-step", "1",
        # Admit more than fits, so that running requests are retracted, and forget at once that
        # they were, so that it happens again. Now and then one is retracted without need, or it
        # would take half an hour until it has happened at every b.
        "--schedule-conservativeness", "0.05",
        env={
            "AMOEBA_AUDIT": "1", "SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS": "1",
            "SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "5",
        },
    ) as server:  # fmt: skip
        print(f"server up in {server.start_seconds:.0f} s", flush=True)
        run = Boundaries(server, options.workers)
        figures = {"settings": vars(options), **run.stream(60 * options.minutes), **run.score()}
    results_file.write(f"boundaries_n{options.workers}", figures)
    wrong = figures["differing"] or figures["errors"] or figures["scored_outputs_that_differ"]
    too_far = figures["log_probabilities_worst_relative"] > TOLERANCE
    return 1 if wrong or too_far or figures["missing"] else 0


class Boundaries:
    """One server, its tour of layouts, and what its workers have said of their steps."""

    def __init__(self, server: Server, workers: int) -> None:
        self.server, self.workers, self.tour = server, workers, TOURS[workers]
        self.made: list[tuple[int, dict[str, Any]]] = []
        self.seen: dict[tuple[str, int], Counter[str]] = {}
        self._read = 0

    def stream(self, seconds: float) -> dict[str, Any]:
        """Streams and transformations until nothing is missing."""
        prompts = chat_prompts(24 * self.workers, seed=11)
        for number in range(0, len(prompts), 8):
            prompts[number] = f"Story {number}: " + "a long story with a clock in it. " * 25
        clients, chance = 8 * self.workers, random.Random(5)
        # Of equal length they would all end at few b.
        outputs = [chance.randint(_OUTPUT // 2, _OUTPUT * 3 // 2) for _ in prompts]
        plain = asyncio.run(run_clients(self.server.url, prompts, clients, outputs))
        errors, differing, requests = [s.error for s in plain if s.error], [], 0
        deadline = time.monotonic() + seconds
        while True:
            moved = asyncio.run(
                run_clients(
                    self.server.url, prompts, clients, outputs, beside=self._disturb(prompts)
                )
            )
            requests += len(moved)
            errors += [s.error for s in moved if s.error]
            errors += [str(reply) for status, reply in self.made if status != 200]
            differing += [
                {"expected": a.text, "got": b.text}
                for a, b in zip(plain, moved, strict=True)
                if a.text != b.text
            ]
            self._read_log()
            missing = self.missing()
            print(
                f"{requests} requests, {len(self.made)} transformations, {len(differing)} differ, "
                f"{len(errors)} errors, missing {sum(map(len, missing.values()))}",
                flush=True,
            )
            if errors or differing or not missing or time.monotonic() > deadline:
                break
        return {
            "requests": requests,
            "transformations": len(self.made),
            "moves_of_each": sorted({reply["moves"] for _, reply in self.made}),
            "errors": errors[:20],
            "differing": differing[:20],
            "missing": missing,
            "events": self.table(),
        }

    def _disturb(self, prompts: list[str]) -> Any:
        """Transforms without pause, beside clients that leave in the middle."""
        chance = random.Random(len(self.made))

        async def disturb(done: asyncio.Event) -> None:
            async def leave() -> None:
                async with new_session() as session:
                    while not done.is_set():
                        await stream_chat(
                            session, self.server.url, chance.choice(prompts), _OUTPUT,
                            stop_after=chance.randint(1, _OUTPUT // 2),
                        )  # fmt: skip

            leavers = [asyncio.create_task(leave()) for _ in range(_LEAVERS)]
            while not done.is_set() or len(self.made) % len(self.tour):
                ranks, degree = self.tour[len(self.made) % len(self.tour)]
                self.made.append(await asyncio.to_thread(self.server.transform, ranks, degree))
                if self.made[-1][0] != 200:
                    break
            await asyncio.gather(*leavers)

        return disturb

    def score(self) -> dict[str, Any]:
        """Log-probabilities while b passes through prompt and output, beside those without."""
        self.seen.clear()
        # (prompt, output tokens): b passes through the chunks of one, through the output of one.
        texts = [
            ([(13 * i + 7 * number) % 9000 + 300 for i in range(length)], output)
            for number in range(len(self.tour))
            for length, output in ((34 * _CHUNK, 8), (_CHUNK, 60))
        ]
        expected = [self._score(*text, home=n % self.workers) for n, text in enumerate(texts)]
        worst, differ = 0.0, 0
        for part in (0, 1):
            for number, (ranks, degree) in enumerate(self.tour):
                at = 2 * number + part
                self.server.post("/flush_cache", {})
                found, ids = asyncio.run(self._score_through(texts[at], at, ranks, degree))
                values, chosen = expected[at]
                difference = max(abs(a - b) for a, b in zip(found, values, strict=True))
                worst = max(worst, difference / max(map(abs, values)))
                differ += ids != chosen
            print(f"log-probabilities: worst {worst:.1e} so far", flush=True)
        self._read_log()
        return {
            "scored_tokens": sum(len(values) for values, _ in expected),
            "scored_outputs_that_differ": differ,
            "log_probabilities_worst_relative": worst,
            "scored_steps": self.table(("prefill", "decode")),
        }

    def _score(self, tokens: list[int], output: int, home: int) -> tuple[list[float], list[int]]:
        reply = self.server.generate(
            tokens, output, return_logprob=True, logprob_start_len=0, routed_dp_rank=home
        )
        info = reply["meta_info"]
        pairs = info["input_token_logprobs"][1:] + info["output_token_logprobs"]
        return [value for value, *_ in pairs], reply["output_ids"]

    async def _score_through(
        self, text: tuple[list[int], int], number: int, ranks: list[int], degree: int
    ) -> tuple[list[float], list[int]]:
        home = number % self.workers
        scoring = asyncio.create_task(asyncio.to_thread(self._score, *text, home))
        await asyncio.sleep(0.1)
        status, reply = await asyncio.to_thread(self.server.transform, ranks, degree)
        assert status == 200, reply
        return await scoring

    def _read_log(self) -> None:
        text = self.server.log.read_text(errors="replace")
        for found in _STEP.findall(text, self._read):
            step = json.loads(found)
            kind = "merge" if sum(step["after"]) > sum(step["before"]) else "split"
            events = {name: step[name] for name in EVENTS}
            self.seen.setdefault((kind, step["b"]), Counter()).update(events)
        self._read = len(text)

    def table(self, events: tuple[str, ...] = EVENTS) -> dict[str, dict[str, list[int]]]:
        """Of merges and splits: event -> how often it happened at b = 0, 1, .., L."""
        layers = max((b for _, b in self.seen), default=0)
        return {
            kind: {
                event: [self.seen.get((kind, b), Counter())[event] for b in range(layers + 1)]
                for event in events
            }
            for kind in ("merge", "split")
        }

    def missing(self) -> dict[str, list[int]]:
        """What has not happened yet: event of a merge or split -> at which b.

        A merge never runs with b = L, nor a split with b = 0: that is the layout before.
        """
        found = {}
        for kind, events in self.table().items():
            for event, counts in events.items():
                passed = enumerate(counts[:-1]) if kind == "merge" else enumerate(counts[1:], 1)
                if at := [b for b, count in passed if not count]:
                    found[f"{event}, {kind}"] = at
        return found


if __name__ == "__main__":
    sys.exit(main())
