"""How much memory does a merge free?"""

from __future__ import annotations

from typing import Any

from bench.results_file import read
from tools.results.numbers import fixed, reach
from tools.results.table import Table

WORKERS = (2, 4)


def capacity() -> Table:
    source = read("long_request")
    rows = []
    for workers in WORKERS:
        found = source.figures[f"{workers} workers"]
        own, merged = tokens_that_fit(found)
        memory = found["weight_memory"][0]
        before, after = memory["weights_at_degree_1"], memory["weights_merged"]
        rows.append(
            (
                f"{workers} workers",
                fixed(own),
                fixed(merged),
                fixed(merged - workers * own),
                f"{fixed(before / 2**20)}, {fixed(after / 2**20)}",
                f"{fixed(100 * (before - after) / before / (1 - 1 / workers), 1)} %",
            )
        )
    return Table(
        name="capacity",
        question="How many tokens can a request have?",
        columns=(
            "workers",
            "tokens of a worker's own pool",
            "tokens when merged",
            "of these in pages of weights",
            "MLP weights mapped by a worker, alone and merged, MiB",
            "freed, of (1 - 1/d) of them",
        ),
        rows=tuple(rows),
        noise="As the server and the system (smaps) say; one run each.",
        sources=(source,),
        labels=2,
        chart="capacity.svg",
    )


def tokens_that_fit(found: dict[str, Any]) -> tuple[int, int]:
    """Of one worker's pool at degree 1, and of all workers merged."""
    return found["max_tokens"]["each at degree 1"][0], found["max_tokens"]["merged"]


def flat() -> Table:
    source = read("page_exchange")
    rows = []
    for workers in WORKERS:
        by_rank = source.figures[f"{workers} workers"]["flat"]
        for cycle in by_rank[0]:
            each = [worker[cycle] for worker in by_rank]
            rows.append(
                (
                    f"{workers} workers",
                    fixed(int(cycle)),
                    *(
                        reach([worker[key] for worker in each], 0)
                        for key in ("physical_kib", "maps", "address_space_mib", "descriptors")
                    ),
                )
            )
    return Table(
        name="flat",
        question="Does a worker's memory stay as it is over cycles of a merge and a split?",
        columns=(
            "workers",
            "cycles",
            "memory file, KiB",
            "mappings",
            "addresses, MiB",
            "descriptors",
        ),
        rows=tuple(rows),
        noise="Lowest to highest of the workers; one run each.",
        sources=(source,),
        labels=2,
    )


def peak() -> Table:
    source = read("peak_memory")
    rows = []
    for workers in WORKERS:
        found = source.figures[f"{workers} workers"]
        turns = found["most_mib_by_turn"]["without"]
        growth = [last - first for first, last in zip(turns[0], turns[-1], strict=True)]
        rows.append(
            (
                f"{workers} workers",
                fixed(found["transformations"]),
                reach(found["extra_mib_by_rank"], 1),
                reach(growth, 0),
            )
        )
    return Table(
        name="peak",
        question="How much more memory does a worker take at most while it changes?",
        columns=(
            "workers",
            "transformations",
            "extra, MiB",
            "growth of the heap in the same minutes, with or without changes, MiB",
        ),
        rows=tuple(rows),
        noise="Lowest to highest of the workers, sampled every few ms under load, against the "
        "turns without changes before and behind; one run each.",
        sources=(source,),
    )
