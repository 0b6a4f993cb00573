"""How much processor an EMULATED server takes: python -m bench.emulation_cost [--workers 8].

Says how small a dilation this machine allows: the real seconds of all processors together that an
emulated second of busy workers costs, divided by the number of cores.
"""

import argparse
import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from typing import Any

import aiohttp
import psutil

from bench import results_file
from bench.footprint import private_bytes, role
from tests.serving.servers import Server

PROMPT = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="h100-96-32b-tp-loss")
    parser.add_argument("--dilation", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rows", type=int, default=32, help="requests of each worker at a time")
    parser.add_argument("--tokens", type=int, default=60, help="of each request's output")
    parser.add_argument("--stream-interval", type=int, default=1, help="tokens of an event")
    options = parser.parse_args()
    flags = [
        "--tp-size", str(options.workers), "--amoeba-policy", "static",
        "--amoeba-emulate", options.device, "--amoeba-emulate-dilation", str(options.dilation),
        "--stream-interval", str(options.stream_interval),
    ]  # fmt: skip
    figures: dict[str, Any] = {"EMULATED": vars(options)}
    with Server(*flags) as server:
        figures["start_seconds"] = round(server.start_seconds, 1)
        for degree in (1, options.workers):
            server.transform(list(range(options.workers)), degree)
            figures[f"degree {degree}"] = run(server, options)
        figures["memory_mib"] = [private_bytes(p.pid) >> 20 for p in server.workers()]
    results_file.write("emulation_cost", figures)


def run(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """All workers decode as many rows; processor seconds by process, and what they allow."""
    before, started, own = processor_seconds(server), time.monotonic(), time.process_time()
    asyncio.run(stream_all(server.url, options))
    wall, client = time.monotonic() - started, time.process_time() - own
    spent = processor_seconds(server) - before
    spent["client"] = client
    steps = options.tokens * options.workers
    least = sum(spent.values()) / wall * options.dilation / len(os.sched_getaffinity(0))
    return {
        "real_seconds": round(wall, 2),
        "emulated_seconds": round(wall / options.dilation, 3),
        "late_share": server.state()["EMULATED"]["late_share"],
        "processor_seconds": {name: round(seconds, 2) for name, seconds in spent.items()},
        "worker_ms_per_step": round(1e3 * spent["worker"] / steps, 2),
        "least_dilation": round(least, 1),
    }


def processor_seconds(server: Server) -> Counter[str]:
    """By the role of a process, without its rank."""
    spent: Counter[str] = Counter()
    for process in server.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent[role(process).partition(" ")[0]] += times.user + times.system
    return spent


async def stream_all(url: str, options: argparse.Namespace) -> None:
    draw, unlimited = random.Random(0), aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=unlimited) as session:
        prompts = [
            draw.choices(range(100, 5000), k=PROMPT) for _ in range(options.workers * options.rows)
        ]
        await asyncio.gather(*(stream(session, url, p, options.tokens) for p in prompts))


async def stream(session: aiohttp.ClientSession, url: str, prompt: list[int], tokens: int) -> None:
    sampling = {"max_new_tokens": tokens, "ignore_eos": True}
    body = {"input_ids": prompt, "sampling_params": sampling, "stream": True}
    async with session.post(f"{url}/generate", json=body) as reply:
        reply.raise_for_status()
        async for _ in reply.content:
            pass


if __name__ == "__main__":
    main()
