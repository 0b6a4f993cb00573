"""How many tokens an instance holds at each degree once freed weight pages carry KV.

Every K and V range of a worker (two a layer) consists of whole pages. Freed pages are spread
equally behind these ranges, and every worker of an instance takes as many as the one that frees
the least; the rest stays unused. At degree d an instance then holds d times the slots of one
worker's pool, each with 1/d of the heads on every worker. A slot holds the tokens of one KV page.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from amoeba_sglang.control.layout.decoder import Decoder
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.control.transform.moves import unit_moves

# With less of the device for KV, a worker at degree 1 runs batches too small to be worth its
# weight reads.
LEAST_KV_SHARE = 0.10
# Of the elastic weights by `wasted_share`; a page size that costs more gets a warning.
MOST_WASTE = 0.10


def growth_pages(pages: WeightPages, degree: int, layers: int, base: int = 1) -> int:
    """Pages that each K and V range gains when a block goes from degree `base` to `degree`."""
    freed = [
        pages.freed_pages(degree, worker).size - pages.freed_pages(base, worker).size
        for worker in range(degree)
    ]
    return min(freed) // (2 * layers)


def lost_share(pages: WeightPages, degree: int, layers: int) -> float:
    """Share of the ideal, (degree - 1) / degree of the weights, that does not become KV memory."""
    ideal = pages.payload_bytes * (degree - 1) / degree
    grown = 2 * layers * growth_pages(pages, degree, layers) * pages.page_size
    return max(0.0, 1 - grown / ideal)


def wasted_share(pages: WeightPages, layers: int) -> float:
    """What this page size costs: the largest `lost_share` of any degree."""
    return max((lost_share(pages, degree, layers) for degree in pages.chain.degrees[1:]), default=0)


def largest_frugal_page(
    pages: WeightPages, layers: int, most_waste: float, smallest: int
) -> int | None:
    """The largest of the page sizes, halved down to `smallest` bytes, that wastes at most that."""
    while pages.page_size >= smallest:
        if wasted_share(pages, layers) <= most_waste:
            return pages.page_size
        pages = replace(pages, page_size=pages.page_size // 2)
    return None


def refilled_bytes(pages: WeightPages, before: int, after: int) -> int:
    """The most that a split from `before` to `after` copies into any one worker."""
    degrees = pages.all_at(before), pages.all_at(after)
    return max(
        sum(stop - start for start, stop, _ in pages.missing_ranges(*degrees, worker))
        for worker in range(before)
    )


def mapping_bound(pages: WeightPages, degree: int, layers: int) -> int:
    """The most address ranges that the pages of one worker can take at `degree`, in any order.

    Every run of kept or freed weight pages is one range, every page lent to the KV may be one of
    its own, and each K and V range has a part from degree 1 and an unmapped tail.
    """
    lent = 2 * layers * growth_pages(pages, degree, layers)
    runs = 0
    for worker in range(degree):
        kept = np.zeros(pages.total_pages, dtype=np.int8)
        kept[pages.kept_pages(degree, worker)] = 1
        runs = max(runs, 1 + int(np.count_nonzero(np.diff(kept))))
    return runs + lent + 4 * layers


@dataclass(frozen=True)
class DegreeCapacity:
    """One instance at `degree`; everything but `tokens` is of each of its workers.

    `freed_bytes`: weight pages that the worker which frees the least gives up; `lost_share`: see
    the function; `kv_bytes`: its whole KV pool; `tokens`: what the instance holds without padding
    slots; `mappings`: `mapping_bound`.
    """

    degree: int
    freed_pages: int
    freed_bytes: int
    lost_share: float
    kv_bytes: int
    tokens: int
    mappings: int


@dataclass(frozen=True)
class PlannedChange:
    """A merge of degree `low` into `high` and the split back.

    `kv_bytes_per_token` of every live token change worker in each; `refilled_bytes` of weights are
    copied into a worker by the split, none by the merge. `driver_calls`: of a worker, to map and
    unmap single pages of a GPU, in each.
    """

    low: int
    high: int
    kv_bytes_per_token: int
    refilled_bytes: int
    driver_calls: int


@dataclass(frozen=True)
class PlannedCapacity:
    """All degrees that fit, from the lowest, and the changes between them.

    `total_bytes`, `waste_bytes`: pages of the elastic weights at degree 1, and how much of them
    holds no weights. `padding_bytes`: what shards on pages of their own would add to them.
    `weight_bytes`: everything a worker holds at degree 1 but KV. `handles`: allocations of a worker
    on a GPU, a page of weights or a layer's K or V each; as many descriptors stay open.
    """

    page_size: int
    total_bytes: int
    waste_bytes: int
    padding_bytes: int
    weight_bytes: int
    handles: int
    degrees: tuple[DegreeCapacity, ...]
    changes: tuple[PlannedChange, ...]

    @property
    def fits(self) -> bool:
        """Whether a worker alone, at degree 1, holds the model and some KV."""
        return bool(self.degrees) and self.degrees[0].degree == 1


def plan_capacity(
    model: Decoder, pages: WeightPages, usable_bytes: int, kv_page: int = 1
) -> PlannedCapacity:
    """What workers with `usable_bytes` for weights and KV hold; `pages` is of `model`'s MLP.

    `kv_page`: tokens of a slot. Counts no copies of weights that a degree may need beside its
    pages, no activations and no graphs: these must fit into what `usable_bytes` leaves of the
    device.
    """
    chain = pages.chain
    own = {degree: _own_pages(model, pages, usable_bytes, degree) for degree in chain.degrees}
    slot_bytes = kv_page * model.slot_bytes
    fitting = [
        degree
        for degree, count in own.items()
        # Slot 0 is padding, so one slot alone holds no token.
        if count * pages.page_size >= 2 * slot_bytes
    ]
    return PlannedCapacity(
        page_size=pages.page_size,
        total_bytes=pages.total_pages * pages.page_size,
        waste_bytes=pages.waste_bytes,
        padding_bytes=pages.padding_bytes,
        weight_bytes=model.replicated_bytes + pages.total_pages * pages.page_size,
        handles=pages.total_pages + 2 * model.layers,
        degrees=tuple(
            _at_degree(model, pages, degree, kv_page, base=(fitting[0], own[fitting[0]]))
            for degree in fitting
        ),
        changes=tuple(
            PlannedChange(
                low,
                high,
                _moved_units(pages, low, high) * model.token_bytes // (high * chain.finest),
                refilled_bytes(pages, high, low),
                driver_calls(pages, low, high, model.layers),
            )
            for low, high in combinations(fitting, 2)
        ),
    )


def starvation(model: Decoder, capacity: PlannedCapacity, device_bytes: int) -> str | None:
    """Why degree 1 has too little KV memory to serve well, or None.

    It has when its pool holds fewer tokens than the longest request, or when less than
    LEAST_KV_SHARE of the device is KV.
    """
    alone, reasons = capacity.degrees[0], []
    if alone.tokens < model.max_request_tokens:
        reasons.append(
            f"{alone.tokens:,} tokens are fewer than the longest request of "
            f"{model.max_request_tokens:,} (max_position_embeddings)"
        )
    if alone.kv_bytes < LEAST_KV_SHARE * device_bytes:
        reasons.append(
            f"{alone.kv_bytes / device_bytes:.1%} of the device is KV, less than "
            f"{LEAST_KV_SHARE:.0%}"
        )
    return "; ".join(reasons) or None


def driver_calls(pages: WeightPages, low: int, high: int, layers: int) -> int:
    """Grown KV pages of the one degree go and those of the other come, weights between them."""
    grown = sum(2 * layers * growth_pages(pages, degree, layers) for degree in (low, high))
    freed = [
        min(len(pages.freed_pages(d, w)) for w in range(pages.chain.finest)) for d in (low, high)
    ]
    return grown + freed[1] - freed[0]


def _own_pages(model: Decoder, pages: WeightPages, usable_bytes: int, degree: int) -> int:
    """Pages of each K and V range of a worker that never runs below `degree`."""
    kept = max(pages.kept_pages(degree, worker).size for worker in range(degree))
    left = usable_bytes - model.replicated_bytes - kept * pages.page_size
    return max(0, left // (2 * model.layers * pages.page_size))


def _at_degree(
    model: Decoder, pages: WeightPages, degree: int, kv_page: int, *, base: tuple[int, int]
) -> DegreeCapacity:
    """`base`: the lowest degree that fits, and the pages of each K and V range there."""
    lowest, own = base
    count = own + growth_pages(pages, degree, model.layers, lowest)
    freed = min(pages.freed_pages(degree, worker).size for worker in range(degree))
    return DegreeCapacity(
        degree=degree,
        freed_pages=freed,
        freed_bytes=freed * pages.page_size,
        lost_share=lost_share(pages, degree, model.layers) if degree > 1 else 0.0,
        kv_bytes=2 * model.layers * count * pages.page_size,
        tokens=degree * kv_page * (count * pages.page_size // (kv_page * model.slot_bytes) - 1),
        mappings=mapping_bound(pages, degree, model.layers),
    )


def _moved_units(pages: WeightPages, low: int, high: int) -> int:
    return len(unit_moves(pages.chain, (low,) * high, (high,) * high))
