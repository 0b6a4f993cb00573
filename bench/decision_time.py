"""How long the router takes to decide: python -m bench.decision_time [--workers 64].

Every policy decides with 64 busy workers, some of them merged, and 10,000 long requests waiting:
`place` chooses the home of a short request, `admit` that of the oldest long one, `change` the next
transformation. What the router gathers for a decision is timed with it.
"""

import argparse
import random
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from amoeba_sglang.control.device import load_device
from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.policy.base import LongRequest, Policy, RequestSize, View, WorkerLoad
from amoeba_sglang.control.router.books import Books
from amoeba_sglang.control.router.layout_keeper import LayoutKeeper
from amoeba_sglang.control.router.long_book import LongBook
from amoeba_sglang.control.router.long_queue import Waiting
from amoeba_sglang.control.router.request import Request
from bench import results_file
from bench.simulate import DEGREES
from bench.simulation.mechanisms import mechanisms

TIMES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--waiting", type=int, default=10_000)
    options = parser.parse_args()
    found = {
        name: time_policy(policy, options.workers, options.waiting)
        for name, policy in POLICIES.items()
    }
    results_file.write("decision_time", {"settings": vars(options), "microseconds": found})


def time_policy(policy: Policy, workers: int, waiting: int) -> dict[str, Any]:
    """Microseconds of each kind of decision."""
    draw = random.Random(0)
    # Every fourth block of 8 is merged.
    layout = Layout(tuple(8 if rank // 8 % 4 == 0 else 1 for rank in range(workers)))
    loads = tuple(
        WorkerLoad(draw.randint(1, 60), draw.randint(0, 9), draw.randint(1000, 70_000), 3000)
        for _ in range(workers)
    )
    table = mechanisms(load_device("h100-96-32b-tp-loss"), DEGREES)["amoeba"].table()
    every = tuple(range(workers))
    reserved = frozenset(rank for rank in every if layout.degrees[rank] > 1)
    sizes = [RequestSize(draw.randint(10, 4000), draw.randint(1, 500)) for _ in range(TIMES)]

    def place(turn: int) -> None:
        view = View(layout.instances, loads, turn, every, reserved=reserved, table=table)
        policy.place(sizes[turn], view)

    kinds: dict[str, Callable[[int], object]] = {"place": place}
    if policy.layout is not None:
        books = Books(
            SimpleNamespace(layout=layout, running=None),
            SimpleNamespace(table=table),
            SimpleNamespace(loads=loads),
            LongBook(workers, 0.0),
        )
        keeper = LayoutKeeper(policy.layout, DegreeChain(DEGREES), 1, books, 0.0)
        for number in range(waiting):
            degree = (2, 4, 8)[number % 3]
            long = LongRequest(
                f"r{number}", 100_000, degree, since=0.0, prompt_tokens=99_000, turn=number
            )
            books.queue.add(Waiting(Request(long.request_id, 99_000, 1000), long))
            keeper.arrive(RequestSize(99_000, 1000), long.degree, number / waiting)
        for size in sizes:
            keeper.arrive(size, 1, 1.0)
        able = tuple(rank for rank in every if layout.degrees[rank] == 8)
        head = books.queue.heads()[0].long
        kinds["admit"] = lambda turn: keeper.admit(head, able, 2.0 + turn / 1000)
        kinds["change"] = lambda turn: keeper.next_change(2.0 + turn / 1000)
    return {kind: results_file.spread(time_calls(call)) for kind, call in kinds.items()}


def time_calls(call: Callable[[int], object]) -> list[float]:
    found = []
    for turn in range(TIMES):
        started = time.perf_counter()
        call(turn)
        found.append(1e6 * (time.perf_counter() - started))
    return found


if __name__ == "__main__":
    main()
