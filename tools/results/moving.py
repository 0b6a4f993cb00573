"""How fast do bytes move?"""

from __future__ import annotations

from bench.results_file import read
from tools.results.numbers import fixed, spread
from tools.results.table import Table

_BASIC = '"Basic": KV of a merge'
_STEPS = {
    "KV of a merge": "merge, KV",
    "pages of a merge": "merge, pages",
    "weights of a split": "split, weights",
    "the copies of these alone": "split, weights: the copies alone, once more",
    "KV of a split": "split, KV",
    "a plain copy of as many bytes of weights": "plain copy of the weights",
    _BASIC: "Basic, KV of a merge",
}


def pages() -> Table:
    source = read("page_exchange")
    settings = source.figures["settings"]
    found = [source.figures[f"{workers} workers"] for workers in (2, 4)]
    rows = [
        (f"{title}, ms", *(spread(one["ms"][way], 1) for one in found))
        for title, way in _STEPS.items()
    ]
    copies = [fixed(one["weight bytes copied by a split"] / 1e6) for one in found]
    rates = [one["rate of weight refill"] for one in found]
    plain = "of plain copy of the weights"
    alone = f"split, weights: the copies alone, once more, {plain}"
    rows += [
        ("weights of a split, MB of a worker", *copies),
        (
            "rate of the weights of a split, of a plain copy's",
            *(fixed(rate[f"split, weights, {plain}"], 2) for rate in rates),
        ),
        ("rate of the copies alone, of a plain copy's", *(fixed(r[alone], 2) for r in rates)),
    ]
    extra = [one["peak extra memory, MiB"] for one in found]
    rows += [
        (
            "extra memory beside the staging buffer, MiB",
            *(fixed(one["ours, beside the staging buffer"], 2) for one in extra),
        ),
        ('extra memory of "Basic", MiB', *(fixed(one["Basic"]) for one in extra)),
    ]
    return Table(
        name="pages",
        question="What do the parts of a change take, all layers at once?",
        columns=("part", "2 workers", "4 workers"),
        rows=tuple(rows),
        noise=f"Median (range) of {fixed(settings['cycles'])} cycles with "
        f'{fixed(settings["live"])} live tokens a worker, of "Basic" of '
        f"{found[0]['ms'][_STEPS[_BASIC]]['runs']}; the slowest worker counts.",
        sources=(source,),
    )


def copies() -> Table:
    source = read("kv_move")
    rows = []
    for name, found in source.figures.items():
        if name == "rounds":
            continue
        workers, degrees, page, live = name.split(", ")
        tokens, where = live.split()
        best = {way: found[f"{way}_ms"]["min"] for way in ("plain", "peer", "collective", "basic")}
        rows.append(
            (
                f"{workers}, {degrees.replace('->', 'to')}",
                page.removeprefix("page "),
                f"{fixed(int(tokens))} {where}",
                fixed(found["mb_received_per_worker"]),
                fixed(best["peer"], 1),
                fixed(found["peer_rate_of_plain_copy_best"], 2),
                fixed(best["collective"] / best["peer"], 1),
                fixed(best["basic"] / best["peer"], 1),
                fixed(found["peak_extra_mib"]["peer"], 1),
                fixed(found["peak_extra_mib"]["basic"]),
            )
        )
    ways = [
        one[f"{way}_ms"]
        for one in source.figures.values()
        if isinstance(one, dict)
        for way in ("plain", "peer", "collective")
    ]
    slowest = max(one["max"] / one["min"] for one in ways)
    return Table(
        name="copies",
        question="How fast does KV change workers, beside a plain copy of as many bytes?",
        columns=(
            "workers and degrees",
            "page",
            "live tokens of a worker",
            "MB received",
            "ms",
            "rate, of the plain copy's",
            "through collectives, times as long",
            '"Basic", times as long',
            "extra memory, MiB",
            'of "Basic", MiB',
        ),
        rows=tuple(rows),
        noise=f"Best of {2 * source.figures['rounds']} moves of each way in turn; the slowest of "
        f"a case take up to {fixed(slowest, 1)} times as long.",
        sources=(source,),
        labels=3,
    )


def collectives() -> Table:
    source = read("transport")
    rows, measured = [], []
    for name, ours in source.figures.items():
        if not name.endswith("peer, us"):
            continue
        gloo = source.figures[name.replace("peer", "collective")]
        ranks, what = name.removesuffix(", peer, us").split(", ", 1)
        rows.append((what.replace("_", "-"), ranks, spread(ours, 1), spread(gloo)))
        measured.append(ours["runs"])
    return Table(
        name="collectives",
        question="How long do collectives through shared memory take, beside gloo, in us?",
        columns=("operation", "ranks", "shared memory", "gloo"),
        rows=tuple(sorted(rows)),
        noise=f"Median (range) of {measured[0]} blocks of 20.",
        sources=(source,),
        labels=2,
    )
