"""How fast at one degree, against stock SGLang; and what does it cost idle?"""

from __future__ import annotations

from typing import Any

from bench.results_file import Result, read
from tools.results.numbers import fixed, reach, spread
from tools.results.table import Table

PAIRS = {
    "throughput_n2_dp": ("2 workers at degree 1", "`--dp-size 2`"),
    "throughput_n4_dp": ("4 workers at degree 1", "`--dp-size 4`"),
    "throughput_n2_tp": ("2 workers at degree 2", "`--tp-size 2`"),
    "throughput_n4_tp": ("4 workers at degree 4", "`--tp-size 4`"),
    "throughput_n2_tp-gloo": ("2 workers at degree 2, gloo", "`--tp-size 2`, gloo"),
}


def throughput() -> Table:
    sources = [read(name) for name in PAIRS]
    rows = []
    for source, (ours, stock) in zip(sources, PAIRS.values(), strict=True):
        means = {side: _mean_rate(source, side) for side in ("amoeba", "stock")}
        rows.append(
            (
                ours,
                stock,
                spread(source.figures["ratio"], 2),
                fixed(means["amoeba"] / means["stock"], 2),
                fixed(means["amoeba"], 1),
                fixed(means["stock"], 1),
                fixed(len(source.figures["pairs"])),
            )
        )
    return Table(
        name="throughput",
        question="What throughput does `bench_serving` find, as a share of stock SGLang's?",
        columns=(
            "ours",
            "stock, on the same platform",
            "ratio of a pair, median (range)",
            "ratio of the means",
            "ours, tokens/s",
            "stock, tokens/s",
            "pairs",
        ),
        rows=tuple(rows),
        noise="Pairs in turn, each side first in every other one; whichever is first is a little "
        "slower.",
        sources=tuple(sources),
        labels=2,
        chart="throughput.svg",
    )


def _mean_rate(source: Result, side: str) -> float:
    pairs = source.figures["pairs"]
    return sum(pair[side]["output_throughput"] for pair in pairs) / len(pairs)


def attention() -> Table:
    source = read("cpu_attention")
    found = source.figures["results"]
    settings = source.figures["settings"]
    rows = [
        (
            phase,
            spread(rates["amoeba_cpu"], 1),
            spread(rates["torch_native"], 1),
            spread(rates["ratio"], 2),
        )
        for phase, rates in (
            ("prefill", found["prefill_tokens_per_s"]),
            ("decode", found["decode_tokens_per_s"]),
        )
    ]
    return Table(
        name="attention",
        question="How fast is the attention of `amoeba_cpu`, beside upstream's `torch_native`?",
        columns=("phase", "amoeba_cpu, tokens/s", "torch_native, tokens/s", "ratio"),
        rows=tuple(rows),
        noise=f"Batch {settings['batch']}, context {settings['context']}, {settings['dtype']}, "
        f"{settings['threads']} threads; median (range) of {settings['rounds']} rounds in turn.",
        sources=(source,),
    )


def products() -> Table:
    source = read("mlp_layout")
    found = source.figures["microseconds_per_product"]
    ways = list(next(iter(found.values())))
    rows = []
    for case, times in found.items():
        stock = times["upstream"]["median"]
        rows.append(
            (
                case.replace(", 1 rows", ", 1 row"),
                spread(times["upstream"]),
                *(fixed(times[way]["median"] / stock, 2) for way in ways[1:]),
            )
        )
    return Table(
        name="products",
        question="What does a down projection cost whose shards are whole pages?",
        columns=(
            "case",
            "as SGLang stores it, us",
            *("transposed, ours" if way == "transposed" else way for way in ways[1:]),
        ),
        rows=tuple(rows),
        noise="One thread; medians, as shares of SGLang's, of "
        f"{reach([one['upstream']['runs'] for one in found.values()], 0)} rounds in turn.",
        sources=(source,),
    )


def idle() -> Table:
    sources = [read(f"idle_n{workers}") for workers in (2, 4)]
    rows = []
    for source, workers in zip(sources, (2, 4), strict=True):
        for start in source.figures["starts"]:
            for side, title in (("amoeba", "ours"), ("stock", f"stock `--dp-size {workers}`")):
                found = start[side]
                rows.append(
                    (
                        f"{workers} workers, {title}",
                        ", ".join(
                            f"{fixed(one['all'], 1)}" + (f" ({at})" if at != "dp" else "")
                            for at, one in found["idle"].items()
                        ),
                        fixed(found["start_seconds"]),
                        _worker_mib(found),
                    )
                )
    return Table(
        name="idle",
        question="What does a server cost that has nothing to do?",
        columns=(
            "server",
            "processor of all processes, % of a core",
            "start, s",
            "resident memory of a worker, MiB",
        ),
        rows=tuple(rows),
        noise="One start each; processor time over "
        f"{' and '.join(fixed(source.figures['seconds']) for source in sources)} s.",
        sources=tuple(sources),
    )


def watched() -> Table:
    source = read("page")
    found = source.figures
    cpu, ratio = found["cpu_percent_of_a_core"], found["throughput"]["ratio"]
    readers = str(found["readers"])
    rows = (
        ("sent to a browser that opens the page, kB", fixed(found["bytes_on_the_wire"] / 1000)),
        ("first paint, ms", spread(found["first_paint_ms"])),
        ("an event after what it tells of, s", spread(found["event_behind_s"], 2)),
        ("processor while nobody looks, % of a core", spread(cpu["0"], 1)),
        ("while one looks", spread(cpu["1"], 1)),
        (f"while {readers} look", spread(cpu[readers], 1)),
        (
            f"throughput of `bench_serving` while {readers} look, of that while nobody does",
            f"{fixed(ratio['median'], 3)} ({fixed(ratio['low'], 3)} to {fixed(ratio['high'], 3)})",
        ),
    )
    return Table(
        name="watched",
        question="What does it cost to be looked at?",
        columns=("of a server of two workers", "median (range)"),
        rows=rows,
        noise=f"{cpu['0']['runs']} turns of nobody, one and {readers}; throughput: median and "
        f"{fixed(100 * ratio['coverage'])} % interval of {len(found['throughput']['pairs'])} pairs "
        "in turn. A reader is a connection whose bytes are thrown away.",
        sources=(source,),
    )


def _worker_mib(found: dict[str, Any]) -> str:
    return reach(
        [
            one["rss_mib"]
            for name, one in found["memory"]["processes"].items()
            if name.startswith("worker")
        ],
        0,
    )


def before() -> Table:
    source = read("ratio")
    rows = [
        (
            f"degree {row['degree']}, {row['kind']}",
            *(
                f"{fixed(one['median'], 3)} ({fixed(one['low'], 3)} to {fixed(one['high'], 3)})"
                for one in (row["ratio against base"], row["ratio against itself"])
            ),
            f"{row['verdict']} ({row['bar']})",
        )
        for row in source.figures["rows"]
    ]
    pairs = source.figures["rows"][0]["seconds"]
    settings = source.figures["settings"]
    return Table(
        name="before",
        question=f"Is it as fast as {settings['base']}, which came before?",
        columns=(
            "load",
            "throughput, of the one before",
            "one against itself",
            "the bar",
        ),
        rows=tuple(rows),
        noise=f"Median and 90 % interval of {len(pairs['base'])} pairs and of "
        f"{len(pairs['itself'])} of one commit against itself, {settings['workers']} workers, "
        f"{settings['dtype']}; above 1 this one is faster.",
        sources=(source,),
    )


def experts() -> Table:
    source = read("experts")
    rows = [
        (
            case.replace(", 1 rows", ", 1 row"),
            spread(found["SGLang"], 2),
            spread(found["Amoeba"], 2),
            spread(found["share"], 2),
            fixed(found["share"]["runs"]),
        )
        for case, found in source.figures["milliseconds"].items()
    ]
    return Table(
        name="experts",
        question="What does a layer of experts cost on a CPU at degree 1?",
        columns=(
            "case",
            "SGLang's own for a CPU, ms",
            "ours, ms",
            "share of SGLang's",
            "rounds",
        ),
        rows=tuple(rows),
        noise="One thread, random routing, either first in every other round; medians and ranges.",
        sources=(source,),
    )
