"""One transformation of two workers with 4,096 live tokens each, beside a server restart.

python -m bench.transform_cost [--tokens 4096] [--rounds 10] [--starts 10]
"""

import argparse
import statistics

from bench import results_file
from tests.serving.servers import Server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--starts", type=int, default=10, help="of the server, each about a minute")
    options = parser.parse_args()
    flags = ("--tp-size", "2", "--dtype", "float32", "--chunked-prefill-size", "1024",
             "--max-total-tokens", str(options.tokens + 512),
             "--amoeba-policy", "static")  # fmt: skip
    with Server(*flags) as server:
        starts = [server.start_seconds]
        for rank in range(2):
            tokens = [(31 * i + rank) % 40000 + 200 for i in range(options.tokens - 1)]
            server.generate(tokens, 1, routed_dp_rank=rank)
        print("live tokens in place", flush=True)
        merges, splits = [], []
        for _ in range(options.rounds):
            for degree, kept in ((2, merges), (1, splits)):
                status, reply = server.transform([0, 1], degree)
                assert status == 200, reply
                kept.append(reply)
        repeated = server.generate(tokens + [5], 1, routed_dp_rank=1)
        cached = repeated["meta_info"]["cached_tokens"]
    while len(starts) < options.starts:
        with Server(*flags) as again:
            starts.append(again.start_seconds)
        print(f"start {len(starts)} of {options.starts}: {starts[-1]:.1f} s", flush=True)
    seconds = [reply["seconds"] for reply in merges + splits]
    typical = statistics.median(seconds)
    results_file.write(
        "transform_cost",
        {
            "live_tokens_per_worker": options.tokens,
            "cached_after_all_rounds": cached,
            "merge_s": results_file.spread([r["seconds"] for r in merges]),
            "split_s": results_file.spread([r["seconds"] for r in splits]),
            "kv_bytes_moved": merges[0]["bytes_moved"]["kv"],
            "restart_s": results_file.spread(starts),
            "fastest_restart_over_slowest_transformation": min(starts) / max(seconds),
            "restart_over_median_transformation": results_file.spread(
                [start / typical for start in starts]
            ),
        },
    )


if __name__ == "__main__":
    main()
