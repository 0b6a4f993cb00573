"""Start-up time, memory and idle CPU beside stock: python -m bench.idle [--workers 2 4 ...]."""

import argparse
import os
import time
from typing import Any

from amoeba_sglang.host.cores import cpu_bindings, threads_per_worker
from bench import results_file
from bench.footprint import cpu_percent, sample
from tests.serving.servers import Server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--seconds", type=float, default=30.0, help="span of one CPU measurement")
    parser.add_argument("--settle", type=float, default=10.0, help="seconds of rest before it")
    parser.add_argument("--starts", type=int, default=1, help="starts of each server, in turn")
    parser.add_argument("--max-total-tokens", type=int, default=4096)
    options = parser.parse_args()
    for workers in options.workers:
        rounds = [
            {"amoeba": measure_amoeba(workers, options), "stock": measure_stock(workers, options)}
            for _ in range(options.starts)
        ]
        results_file.write(f"idle_n{workers}", {"seconds": options.seconds, "starts": rounds})


def measure_amoeba(workers: int, options: argparse.Namespace) -> dict[str, Any]:
    """Start-up, memory and CPU at every uniform degree of one server."""
    manual = ("--amoeba-policy", "static")
    with Server("--tp-size", str(workers), *manual, *common(options)) as server:
        measured = describe_start("amoeba", workers, server)
        measured["idle"] = {"degree 1": rest(server, options)}
        for degree in server.state()["degrees"][1:]:
            for first in range(0, workers, degree):
                status, reply = server.transform(list(range(first, first + degree)), degree)
                assert status == 200, reply
            measured["idle"][f"degree {degree}"] = rest(server, options)
        measured["after"] = sample(server)
    return measured


def measure_stock(workers: int, options: argparse.Namespace) -> dict[str, Any]:
    """The same of SGLang's own server with as many replicas on the same platform."""
    with Server(
        "--dp-size", str(workers), "--sleep-on-idle", *common(options),
        module="sglang.launch_server", env=stock_environment(workers),
    ) as server:  # fmt: skip
        measured = describe_start("stock", workers, server)
        measured["idle"] = {"dp": rest(server, options)}
    return measured


def describe_start(name: str, workers: int, server: Server) -> dict[str, Any]:
    print(f"{name} with {workers} workers: ready in {server.start_seconds:.1f} s", flush=True)
    return {"start_seconds": round(server.start_seconds, 2), "memory": sample(server)}


def rest(server: Server, options: argparse.Namespace) -> dict[str, float]:
    """CPU of the idle server after one request, in percent of one core."""
    server.generate("One two three", 8)
    time.sleep(options.settle)
    percent = cpu_percent(server, options.seconds)
    print(f"  idle: {percent}", flush=True)
    return percent


def common(options: argparse.Namespace) -> list[str]:
    return ["--dtype", "float32", "--max-total-tokens", str(options.max_total_tokens)]


def stock_environment(workers: int) -> dict[str, str]:
    """The cores that Amoeba's launcher would give to as many workers."""
    cores = sorted(os.sched_getaffinity(0))
    return {
        "SGLANG_CPU_OMP_THREADS_BIND": cpu_bindings(workers, cores),
        "OMP_NUM_THREADS": str(threads_per_worker(workers, len(cores))),
        "GLOO_SOCKET_IFNAME": "lo",
    }


if __name__ == "__main__":
    main()
