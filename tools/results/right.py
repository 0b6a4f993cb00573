"""Are the numbers right?"""

from __future__ import annotations

import re
from typing import Any

from bench.results_file import read
from tools.results.numbers import fixed, tiny
from tools.results.table import Table

_FAMILIES = {
    "llama": "SmolLM2-135M",
    "qwen3": "a small Qwen3 of random weights",
}


def accuracy() -> Table:
    sources = [read(f"accuracy_{family}") for family in _FAMILIES]
    rows = []
    for source, model in zip(sources, _FAMILIES.values(), strict=True):
        for degree, phases in source.figures.items():
            for phase, found in phases.items():
                rows.append(
                    (
                        f"{model}, {degree.replace('_', ' ')}, {phase}",
                        fixed(found["tokens"]),
                        tiny(found["max_relative_to_largest"]),
                        tiny(found["nll_relative_difference"]),
                    )
                )
    return Table(
        name="accuracy",
        question="How far are log-probabilities from those of stock static TP?",
        columns=(
            "model, degree, phase",
            "tokens",
            "largest difference, of the largest",
            "NLL, relative difference",
        ),
        rows=tuple(rows),
        noise="Teacher-forced, fp32; 0: identical; one run each.",
        sources=tuple(sources),
    )


def long_prompts() -> Table:
    source = read("long_request")
    rows = []
    for workers, found in source.figures.items():
        differ = found["short_requests_that_differ"]
        rows.append(
            (
                f"{workers} of {found['max_tokens']['each at degree 1'][0]} tokens",
                fixed(found["prompt_tokens"]),
                tiny(found["prompt"]["max_relative_to_largest"]),
                tiny(found["output"]["max_relative_to_largest"]),
                fixed(differ["beside the long one"]),
                fixed(differ["after the split"]),
            )
        )
    return Table(
        name="long_prompts",
        question="Is a prompt right that no worker could hold alone, and what runs beside it?",
        columns=(
            "workers, each with a pool",
            "tokens of the prompt",
            "its log-probabilities, difference of the largest",
            "those of its output",
            "short outputs that differ beside it",
            "after the split",
        ),
        rows=tuple(rows),
        noise="Against stock static TP with a large pool, short requests against the same before "
        "the merge; one run each.",
        sources=(source,),
    )


def _streams(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    """The first cells of a row of streams through every layout."""
    streams = found["streams"]
    return (
        f"{name}, at {found['commit'][:7]}",
        fixed(found["changes"]),
        fixed(streams["whole"]),
        fixed(sum(streams.values()) - streams["whole"]),
    )


def reference_rows() -> Table:
    source = read("reference_rows")
    rows = []
    for name, found in source.figures.items():
        likelihood = found["log_likelihoods"]
        rows.append(
            (
                *_streams(name, found),
                ", ".join(f"{one:.5f} ({degree})" for degree, one in likelihood.items()),
                fixed(found["device"]["plain steps without a graph"]),
                fixed(len(found["problems"])),
            )
        )
    return Table(
        name="reference_rows",
        question="Is anything lost or wrong on the REFERENCE device, which stands for a GPU?",
        columns=(
            "row of the CUDA plane's table",
            "changes",
            "streams whole",
            "lost",
            "mean log-likelihood of a text",
            "plain decode steps without a graph",
            "complaints",
        ),
        rows=tuple(rows),
        noise="32 streams while random orders lead through every layout; one run each, which "
        "complains if log-likelihoods differ by 1e-3, or KV or weights in any bit after a merge "
        "and a split.",
        sources=(source,),
    )


def reference_order() -> Table:
    source = read("reference_order")
    rows = [
        # Addresses are other ones in every run.
        (f"`{wait}`", re.sub(r" of \[0x[^)]*\)", "", said))
        for wait, said in source.figures["waits"].items()
    ]
    return Table(
        name="reference_order",
        question="Which waits does the CUDA plane need, and what races without one?",
        columns=("left out", "what the REFERENCE device then refuses"),
        rows=tuple(rows),
        noise="One server for each wait, four layers of the model.",
        sources=(source,),
    )


def mixtures() -> Table:
    source = read("mixtures")
    rows = []
    for name, found in source.figures.items():
        rows.append(
            (
                *_streams(name, found),
                ", ".join(f"{one:.6f} ({d})" for d, one in found["log_likelihoods"].items()),
                "; ".join(_weights(where, sizes) for where, sizes in found["weight_bytes"].items()),
                fixed(len(found["problems"])),
            )
        )
    return Table(
        name="mixtures",
        question="Is anything lost or wrong with mixtures of experts?",
        columns=(
            "family, workers and type",
            "changes",
            "streams whole",
            "lost",
            "mean log-likelihood of a text",
            "weights in pages, each worker (planned)",
            "complaints",
        ),
        rows=tuple(rows),
        noise="Small models with random weights on the CPU; 32 streams while random orders lead "
        "through every layout; one run each, which complains if a token differs (float32), "
        "log-likelihoods differ by 1e-4 (bfloat16: 1e-3), KV or weights differ in any bit after a "
        "merge and a split, or other pages are mapped than planned.",
        sources=(source,),
    )


def _weights(where: str, sizes: dict[str, list[int]]) -> str:
    found, planned = (
        " or ".join(f"{size >> 10} KiB" for size in sorted(set(sizes[kind])))
        for kind in ("mapped", "planned")
    )
    return f"{where}: {found} ({planned})"
