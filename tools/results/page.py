"""docs/results.md: which tables it has, and how they get into it."""

from __future__ import annotations

from pathlib import Path

from tools.results import (
    change,
    failing,
    lost,
    memory,
    moving,
    policy,
    right,
    simulated,
    soak,
    speed,
    ways,
)
from tools.results.table import Table, fill

PAGE = Path(__file__).parents[2] / "docs/results.md"
_MAKERS = (
    lost.equality, lost.boundaries, lost.cycles, lost.mutants,
    soak.soak, soak.soak_events, soak.soak_memory,
    change.cost, change.gaps, lost.gaps_under_load, change.tokens, change.lock_step,
    ways.merges, ways.splits,
    memory.capacity, memory.flat, memory.peak,
    speed.throughput, speed.attention, speed.products, speed.experts,
    moving.pages, moving.copies, ways.kv_ways, ways.weights_ways, moving.collectives,
    right.accuracy, right.long_prompts, right.reference_rows, right.reference_order,
    right.mixtures,
    failing.faults, failing.hostile,
    policy.replay, simulated.tp_loss, simulated.roofline, simulated.rivals,
    policy.emulated, policy.decisions,
    speed.idle, speed.watched, speed.before,
)  # fmt: skip


def make_tables() -> dict[str, Table]:
    made = [make() for make in _MAKERS]
    return {table.name: table for table in made}


def write() -> list[str]:
    """Make the tables of the page anew; the names of those that changed."""
    text, changed = fill(PAGE.read_text(), make_tables())
    PAGE.write_text(text)
    return changed
