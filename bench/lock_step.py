"""How long a block needs to enter lock-step while one of its workers is in the middle of a prefill.

    python -m bench.lock_step [--workers 2] [--rounds 10]

Every worker but the last decodes a few streams, the last one prefills a prompt of several chunks,
and a merge is ordered at a random time in that. Reported: the time from COMMIT, and from POST, to
lock-step in steps of the slowest worker (its chunk), and what the decoding streams feel.
"""

import argparse
import asyncio
import itertools
import random
import statistics
import time
from typing import Any

from bench import results_file
from bench.stagger import prompt_of, stream_tokens
from tests.serving.load import new_session
from tests.serving.servers import Server

_CHUNK, _CHUNKS, _STREAMS = 512, 4, 2
_PROMPT, _TOKENS = 200, 4000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, choices=(2, 4))
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    pool = _STREAMS * (_PROMPT + _TOKENS) + 2 * _CHUNK * _CHUNKS
    flags = (
        f"--tp-size {options.workers} --dtype float32 --max-total-tokens {pool} "
        f"--chunked-prefill-size {_CHUNK} --amoeba-policy static"
    )
    with Server(*flags.split()) as server:
        figures = asyncio.run(_measure(server, options))
    results_file.write(f"lock_step_n{options.workers}", {"settings": vars(options), **figures})


async def _measure(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    ranks, last = list(range(options.workers)), options.workers - 1
    chance, rounds = random.Random(3), []
    arrivals: list[list[float]] = [[] for _ in range(last * _STREAMS)]
    async with new_session() as http:
        streams = [
            asyncio.create_task(
                stream_tokens(
                    http,
                    server,
                    prompt_of(number, _PROMPT),
                    _TOKENS,
                    rank=number % last,
                    arrivals=gaps,
                )
            )
            for number, gaps in enumerate(arrivals)
        ]
        while min(map(len, arrivals)) < 10:
            await asyncio.sleep(0.1)
        begun = time.monotonic()
        chunk = (await _prefill(server, 1000, last) - begun) / _CHUNKS
        for number in range(options.rounds):
            prefill = asyncio.create_task(_prefill(server, 2000 + number, last))
            # In the first or the second chunk, so that others are left to come to lock-step in.
            await asyncio.sleep(chunk * (0.2 + 1.5 * chance.random()))
            posted = time.monotonic()
            status, reply = await asyncio.to_thread(server.transform, ranks, options.workers)
            assert status == 200, reply
            locked = posted + reply["prepare_seconds"] + reply["lockstep_seconds"]
            rounds.append((posted, locked, reply))
            assert locked < await prefill, "the prefill was over before lock-step"
            await asyncio.to_thread(server.transform, ranks, 1)
            print(f"round {number + 1} of {options.rounds}", flush=True)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    await asyncio.to_thread(server.wait_until_idle)
    return {"chunk_s_before": chunk, **_summarise(rounds, arrivals)}


async def _prefill(server: Server, seed: int, rank: int) -> float:
    """When a prompt of `_CHUNKS` chunks has its first token, on the monotonic clock."""
    prompt = prompt_of(seed, _CHUNK * _CHUNKS)
    await asyncio.to_thread(server.generate, prompt, 1, routed_dp_rank=rank)
    return time.monotonic()


def _summarise(
    rounds: list[tuple[float, float, dict[str, Any]]], arrivals: list[list[float]]
) -> dict[str, Any]:
    spread, waits = results_file.spread, []
    gaps = [b - a for stream in arrivals for a, b in itertools.pairwise(stream)]
    for _, locked, _ in rounds:
        last = (max(at for at in stream if at <= locked) for stream in arrivals)
        waits.append(locked - min(last))
    return {
        "commit_to_lock_step_in_steps_of_the_slowest": spread(
            [r["lockstep_seconds"] / r["step_seconds"] for *_, r in rounds]
        ),
        "post_to_lock_step_in_steps_of_the_slowest": spread(
            [(locked - posted) / r["step_seconds"] for posted, locked, r in rounds]
        ),
        "slowest_step_s": spread([r["step_seconds"] for *_, r in rounds]),
        "lock_step_s": spread([r["lockstep_seconds"] for *_, r in rounds]),
        "median_gap_ms": 1e3 * statistics.median(gaps),
        # The last token before it to lock-step; about a median gap if nobody waits.
        "still_before_lock_step_ms": spread([1e3 * wait for wait in waits]),
    }


if __name__ == "__main__":
    main()
