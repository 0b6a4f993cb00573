"""Throughput tables for tests."""

from amoeba_sglang.control.policy.throughput import DegreeThroughput, StepCost, ThroughputTable


def table(loss=1.5, tokens=(80_000, 360_000, 930_000, 2_000_000), transformation_s=0.2):
    """Degrees 1 to 8; every doubling of the degree halves the cost of a step, times `loss`."""
    degrees = {}
    for power, held in enumerate(tokens):
        degree, factor = 2**power, (loss / 2) ** power
        cost = StepCost(
            fixed=0.02 * factor,
            row=5e-5 * factor,
            prefill=1.2e-4 * factor,
            context=8e-8 * factor,
            attention=2.4e-9 * factor,
        )
        degrees[degree] = DegreeThroughput(cost, held, 256 * degree)
    return ThroughputTable(degrees, transformation_s, "made up")
