"""What clients feel of a merge and a split: gaps between tokens, staggered and all at once.

    python -m bench.stagger [--workers 2] [--rounds 10] [--prompt-tokens 1500] [--streams 4]
                            [--cached-tokens 0]

Steady decode: a fixed number of streams a worker, each far longer than the measurement. Two servers
are up, one that moves a few layers a step (auto) and one that moves all at once; they are measured
in turn, half of the rounds each time, with the same load. Reported: every gap that overlaps a
transformation beside those between transformations, and the tokens made meanwhile.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench import results_file
from bench.charts.measured import draw_stagger
from tests.serving.load import new_session
from tests.serving.servers import Server

WAYS = {"staggered": "auto", "all at once": "0"}
# Of what the server says of a transformation.
_PARTS = ("prepare", "lockstep", "longest_step", "pause", "settle", "copy")
_SETTLE_S = 1.5
_TOKENS = 1200


@dataclass
class Session:
    """What one server showed; times on the monotonic clock of this process.

    arrivals: of every stream; quiet: spans (start, end, degree) without a transformation;
    operations: (start, end, kind, reply).
    """

    arrivals: list[list[float]]
    quiet: list[tuple[float, float, int]] = field(default_factory=list)
    operations: list[tuple[float, float, str, dict[str, Any]]] = field(default_factory=list)

    def gaps(self, start: float, end: float, inside: bool) -> list[float]:
        """Gaps of all streams within the span, or (not `inside`) that overlap it."""
        return [b - a for a, b in self.spans(start, end, inside)]

    def spans(self, start: float, end: float, inside: bool) -> list[tuple[float, float]]:
        """From one token of a stream to the next, for all of these gaps."""
        return [
            (a, b)
            for stream in self.arrivals
            for a, b in itertools.pairwise(stream)
            if ((start <= a and b <= end) if inside else (a < end and b > start))
        ]

    def tokens(self, start: float, end: float) -> int:
        return sum(start <= at < end for stream in self.arrivals for at in stream)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, choices=(2, 4))
    parser.add_argument("--rounds", type=int, default=10, help="merges and splits of each way")
    parser.add_argument("--prompt-tokens", type=int, default=1500)
    parser.add_argument("--streams", type=int, default=4, help="of each worker")
    parser.add_argument(
        "--cached-tokens",
        type=int,
        default=0,
        help="further live tokens of each worker, in its prefix cache",
    )
    parser.add_argument("--name", default="", help="of the result, after the number of workers")
    options = parser.parse_args()
    pool = options.streams * (options.prompt_tokens + _TOKENS) + options.cached_tokens + 256
    sessions: dict[str, list[Session]] = {way: [] for way in WAYS}
    flags = (
        f"--tp-size {options.workers} --dtype float32 --max-total-tokens {pool} "
        "--chunked-prefill-size 1024 --amoeba-policy static --amoeba-layers-per-step"
    )
    servers = {way: Server(*flags.split(), layers) for way, layers in WAYS.items()}
    with servers["staggered"], servers["all at once"]:
        for server in servers.values():
            fill_caches(server, options)
        for half in (1, 2):
            for way, server in servers.items():
                sessions[way].append(asyncio.run(_measure(server, options)))
                print(f"{way}: half {half} of 2 done", flush=True)
    path = results_file.write(
        f"stagger_n{options.workers}{options.name}",
        {"settings": vars(options), **_summarise(sessions, options.workers)},
    )
    draw_stagger(results_file.read(path.stem))


def fill_caches(server: Server, options: argparse.Namespace) -> None:
    """Prompts of up to 4,096 tokens that nobody asks for again."""
    for rank in range(options.workers):
        for start in range(0, options.cached_tokens, 4096):
            count = min(4096, options.cached_tokens - start) - 1
            tokens = [(17 * i + start + 7919 * rank) % 40000 + 200 for i in range(count)]
            server.generate(tokens, 1, routed_dp_rank=rank)


async def _measure(server: Server, options: argparse.Namespace) -> Session:
    """One server under its load, for half of the rounds."""
    count = options.streams * options.workers
    session = Session([[] for _ in range(count)])
    async with new_session() as http:
        streams = [
            asyncio.create_task(
                stream_tokens(
                    http,
                    server,
                    prompt_of(number, options.prompt_tokens),
                    _TOKENS,
                    rank=number % options.workers,
                    arrivals=session.arrivals[number],
                )
            )  # fmt: skip
            for number in range(count)
        ]
        while min(map(len, session.arrivals)) < 3:
            if failed := [s for s in streams if s.done()]:
                await failed[0]
                raise RuntimeError("a stream ended before the measurement began")
            await asyncio.sleep(0.1)
        ranks = list(range(options.workers))
        for degree, kind in ((options.workers, "merge"), (1, "split")) * (options.rounds // 2):
            begun = time.monotonic()
            await asyncio.sleep(_SETTLE_S)
            started = time.monotonic()
            session.quiet.append((begun, started, 1 if kind == "merge" else options.workers))
            status, reply = await asyncio.to_thread(server.transform, ranks, degree)
            assert status == 200, reply
            session.operations.append((started, time.monotonic(), kind, reply))
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    if max(map(len, session.arrivals)) == _TOKENS:
        raise RuntimeError("a stream ended before the measurement did: use fewer rounds")
    await asyncio.to_thread(server.wait_until_idle)
    return session


def prompt_of(number: int, length: int) -> list[int]:
    return [(31 * i + 977 * number) % 40000 + 200 for i in range(length)]


async def stream_tokens(
    http: Any, server: Server, prompt: list[int], output: int, *, rank: int, arrivals: list[float]
) -> None:
    """Stream one request at `rank`; the arrival of each token is appended, in monotonic seconds."""
    body = {
        "input_ids": prompt,
        "sampling_params": {"max_new_tokens": output, "temperature": 0, "ignore_eos": True},
        "stream": True,
        "routed_dp_rank": rank,
    }
    async with http.post(f"{server.url}/generate", json=body) as reply:
        async for line in reply.content:
            if line.startswith(b"data: {"):
                if "error" in json.loads(line[6:]):
                    raise RuntimeError(line.decode())
                arrivals.append(time.monotonic())


def _summarise(sessions: dict[str, list[Session]], workers: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    plain: dict[int, list[float]] = {1: [], workers: []}
    rates: dict[int, list[float]] = {1: [], workers: []}
    for session in (session for each in sessions.values() for session in each):
        for start, end, degree in session.quiet:
            plain[degree] += session.gaps(start, end, inside=True)
            rates[degree].append(session.tokens(start, end) / (end - start))
    medians = {degree: statistics.median(gaps) for degree, gaps in plain.items()}
    slower, slowest_rate = max(medians.values()), min(map(statistics.median, rates.values()))
    figures["median_gap_ms"] = {degree: 1e3 * gap for degree, gap in medians.items()}
    figures["p99_gap_ms"] = {d: 1e3 * float(np.percentile(gaps, 99)) for d, gaps in plain.items()}
    figures["longest_gap_ms"] = {d: 1e3 * max(gaps) for d, gaps in plain.items()}
    figures["gap_percentiles_of_median_gap"] = {
        degree: _percentiles(gaps, slower) for degree, gaps in plain.items()
    }
    # Machines have stalls too.
    figures["longest_gap_inside_a_quiet_span_of_median_gap"] = results_file.spread(
        [
            max(gaps) / slower
            for session in (session for each in sessions.values() for session in each)
            for start, end, _ in session.quiet
            if (gaps := session.gaps(start, end, inside=True))
        ]
    )
    figures["tokens_per_s"] = {d: statistics.median(each) for d, each in rates.items()}
    for way, each in sessions.items():
        for kind in ("merge", "split"):
            figures[f"{way} {kind}"] = _figures_of(each, kind, slower, slowest_rate)
    for kind in ("merge", "split"):
        ways = [figures[f"{way} {kind}"]["longest_gap_ms"]["median"] for way in WAYS]
        figures[f"longest gap of a {kind}, staggered over all at once"] = ways[0] / ways[1]
        stall = [w - 1e3 * slower for w in ways]
        figures[f"stall of a {kind} beyond a median gap, ms"] = dict(zip(WAYS, stall, strict=True))
        figures[f"stall of a {kind}, staggered over all at once"] = stall[0] / stall[1]
    return figures


def _figures_of(
    sessions: list[Session], kind: str, slower: float, slowest_rate: float
) -> dict[str, Any]:
    longest, all_gaps, shares, replies, begins = [], [], [], [], []
    for session in sessions:
        for start, end, which, reply in session.operations:
            if which == kind:
                spans = session.spans(start, end, inside=False)
                first, last = max(spans, key=lambda span: span[1] - span[0])
                longest.append(last - first)
                begins.append(first - start)
                all_gaps += [b - a for a, b in spans]
                shares.append(session.tokens(start, end) / (end - start) / slowest_rate)
                replies.append(reply)
    ms = [1e3 * gap for gap in longest]
    edges = [1.0, 1.1, 1.2, 1.35, 1.5, 2.0, 3.0]
    return {
        "longest_gap_ms": results_file.spread(ms),
        "longest_gap_of_median_gap": results_file.spread([gap / slower for gap in longest]),
        "gaps_above_median_gap_times": {
            str(edge): sum(gap > edge * slower for gap in all_gaps) for edge in edges
        },
        "gaps": len(all_gaps),
        "gap_percentiles_of_median_gap": _percentiles(all_gaps, slower),
        # To see what made the longest gap of each transformation.
        "each": [
            {
                "longest_gap_ms": round(1e3 * gap, 1),
                "begins_after_post_ms": round(1e3 * begin),
                **{f"{name}_ms": round(1e3 * reply[f"{name}_seconds"], 1) for name in _PARTS},
            }
            for gap, begin, reply in zip(longest, begins, replies, strict=True)
        ],
        "tokens_of_slower_degree": results_file.spread(shares),
        "seconds": results_file.spread([reply["seconds"] for reply in replies]),
        "lockstep_seconds": results_file.spread([r["lockstep_seconds"] for r in replies]),
        "longest_step_seconds": results_file.spread([r["longest_step_seconds"] for r in replies]),
        "moves": results_file.spread([reply["moves"] for reply in replies]),
        "copy_seconds": results_file.spread([reply["copy_seconds"] for reply in replies]),
        "pace": replies[-1]["pace"],
        "kv_bytes": replies[-1]["bytes_moved"]["kv"],
    }


def _percentiles(gaps: list[float], slower: float) -> list[float]:
    """The 0th to the 100th, as multiples of the median gap of the slower degree."""
    return np.round(np.percentile(gaps, range(101), method="lower") / slower, 3).tolist()


if __name__ == "__main__":
    main()
