"""Streams through every layout, token for token equal to the same server left alone.

    python -m bench.equality [--workers 4] [--transformations 40]

32 concurrent streaming greedy chat requests in fp32, once with the layout untouched and once while
it cycles through every change along the chain.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from typing import Any

import numpy as np

from bench import results_file
from tests.serving.load import Stream, chat_prompts, run_clients
from tests.serving.servers import Server

TOURS: dict[int, list[tuple[list[int], int]]] = {
    2: [([0, 1], 2), ([0, 1], 1)],
    4: [
        ([0, 1], 2), ([2, 3], 2), ([0, 1, 2, 3], 4), ([0, 1, 2, 3], 2), ([2, 3], 1),
        ([0, 1, 2, 3], 4), ([0, 1, 2, 3], 1), ([0, 1, 2, 3], 4), ([0, 1, 2, 3], 2),
        ([0, 1], 1), ([2, 3], 1), ([0, 1, 2, 3], 2), ([0, 1, 2, 3], 1),
    ],
}  # fmt: skip


def gap_figures(streams: list[Stream]) -> dict[str, float]:
    gaps = [gap for stream in streams for gap in stream.gaps]
    return {
        "tokens": sum(len(s.arrivals) for s in streams),
        "gap_median_s": statistics.median(gaps),
        "gap_p99_s": float(np.percentile(gaps, 99)),
        "gap_max_s": max(gaps),
    }


def over_windows(streams: list[Stream], windows: list[tuple[float, float]]) -> list[float]:
    """Longest gap of each stream that overlaps one of the windows (monotonic seconds)."""
    return [
        max(
            (
                b - a
                for s in streams
                for a, b in zip(s.arrivals, s.arrivals[1:], strict=False)
                if a < end and b > start
            ),
            default=0.0,
        )
        for start, end in windows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4, choices=sorted(TOURS))
    parser.add_argument("--transformations", type=int, default=40)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--layers-per-step", default="auto", help="--amoeba-layers-per-step")
    options = parser.parse_args()
    tour = TOURS[options.workers]
    prompts = chat_prompts(options.requests, seed=5)
    made: list[tuple[float, float, int, dict[str, Any]]] = []
    with Server(
        "--tp-size", str(options.workers), "--dtype", "float32", "--max-total-tokens", "8192",
        "--max-running-requests", "64", "--chunked-prefill-size", "512",
        "--amoeba-policy", "static", "--amoeba-layers-per-step", options.layers_per_step,
    ) as server:  # fmt: skip
        print(f"server up in {server.start_seconds:.0f} s; untouched run", flush=True)
        asyncio.run(run_clients(server.url, prompts[:8], 8, 8))
        server.post("/flush_cache", {})
        plain = asyncio.run(run_clients(server.url, prompts, 32, options.tokens))
        server.post("/flush_cache", {})

        async def cycle(done: asyncio.Event) -> None:
            loop = asyncio.get_running_loop()
            while not done.is_set() or len(made) % len(tour):
                ranks, degree = tour[len(made) % len(tour)]
                start = loop.time()
                status, reply = await asyncio.to_thread(server.transform, ranks, degree)
                made.append((start, loop.time(), status, reply))
                if len(made) % 10 == 0:
                    print(f"{len(made)} transformations", flush=True)

        moved: list[Stream] = []
        expected: list[Stream] = []
        while sum(1 for m in made if m[2] == 200) < options.transformations:
            moved += asyncio.run(run_clients(server.url, prompts, 32, options.tokens, cycle))
            expected += plain
    replies = [reply for *_, status, reply in made if status == 200]
    windows = [(start, end) for start, end, *_ in made]
    differing = [
        {"expected": a.text, "got": b.text}
        for a, b in zip(expected, moved, strict=True)
        if a.text != b.text
    ]
    steps = options.layers_per_step
    way = {"auto": "", "0": "_all_at_once"}.get(steps, f"_{steps}_layers_a_step")
    results_file.write(
        f"equality_n{options.workers}{way}",
        {
            "requests": len(moved),
            "concurrency": 32,
            "transformations": len(made),
            "transformations_refused": sum(1 for m in made if m[2] != 200),
            "errors": [s.error for s in plain + moved if s.error],
            "differing": differing,
            "untouched": gap_figures(plain),
            "transforming": gap_figures(moved),
            "longest_gap_over_a_transformation_s": results_file.spread(
                over_windows(moved, windows)
            ),
            "post_to_done_s": results_file.spread([end - start for start, end in windows]),
            "post_to_lock_step_s": results_file.spread(
                [r["prepare_seconds"] + r["lockstep_seconds"] for r in replies]
            ),
            # Of the slowest step that the slowest worker made between POST and lock-step.
            "post_to_lockstep_in_steps": results_file.spread(
                [
                    (r["prepare_seconds"] + r["lockstep_seconds"]) / r["step_seconds"]
                    for r in replies
                    if r["step_seconds"]
                ]
            ),
            "stall_s": results_file.spread([r["longest_step_seconds"] for r in replies]),
        },
    )


if __name__ == "__main__":
    main()
