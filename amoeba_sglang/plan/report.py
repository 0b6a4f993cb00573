"""What a model and a device allow, as text for a person or as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from amoeba_sglang.config import MAPPING_SHARE
from amoeba_sglang.control.layout.capacity import (
    MOST_WASTE,
    PlannedCapacity,
    largest_frugal_page,
    plan_capacity,
    starvation,
    wasted_share,
)
from amoeba_sglang.control.layout.decoder import Decoder
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.plan.device_memory import DeviceMemory

GB = 10**9
SMALLEST_PAGE = 4 << 10
# Linux's default of vm.max_map_count.
MAP_COUNT = 65530


@dataclass(frozen=True)
class Report:
    """The plan of one model on one kind of device."""

    model: Decoder
    chain: DegreeChain
    memory: DeviceMemory
    capacity: PlannedCapacity
    warnings: tuple[str, ...]

    @classmethod
    def build(
        cls, model: Decoder, pages: WeightPages, memory: DeviceMemory, kv_page: int
    ) -> Report:
        """`pages`: of the model's MLP; `kv_page`: tokens of a KV page."""
        usable_bytes = memory.usable(pages.chain)
        capacity = plan_capacity(model, pages, usable_bytes, kv_page)
        warnings = [_misfit(capacity, usable_bytes)]
        if capacity.fits and (reason := starvation(model, capacity, memory.total)):
            warnings.append(f"degree 1 is starved of KV: {reason}")
        warnings += [_waste(pages, model.layers), _mappings(capacity), _excess(memory, pages.chain)]
        found = tuple(warning for warning in warnings if warning)
        return cls(model, pages.chain, memory, capacity=capacity, warnings=found)

    def data(self) -> dict[str, Any]:
        """Everything in plain types; sizes in bytes."""
        model = self.model
        return {
            "model": asdict(model),
            "degrees": self.chain.degrees,
            "device_bytes": self.memory.total,
            "usable_bytes": self.memory.usable(self.chain),
            "communicator_bytes": self.memory.communicators,
            "recorded_step_bytes": self.memory.recorded_steps,
            "weights": {
                "mlp": model.mlp_bytes,
                "routers": model.router_bytes,
                "attention": model.attention_bytes,
                "embedding_and_head": model.embedding_bytes,
                "norms": model.norm_bytes,
            },
            "token_bytes": model.token_bytes,
            "capacity": asdict(self.capacity),
            "warnings": self.warnings,
        }

    def text(self) -> str:
        """The tables, then the warnings."""
        lines = [
            *self._head(),
            *_degrees(self.capacity),
            *_changes(self.capacity),
            "",
            "lost: share of the ideal, (d-1)/d of the MLP, that does not become KV",
            "mappings: the most that the pages of a worker need on host memory",
            f"on a GPU a worker has {self.capacity.handles:,} allocations, an open descriptor each "
            "(ulimit -n)",
            "pages mapped on a GPU: calls of its driver to map and unmap, by a merge or its split",
            *_degree_memory(self.memory, self.chain),
            *(f"warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)

    def _head(self) -> Iterator[str]:
        model, memory = self.model, self.memory
        yield (
            f"{model.name}: {model.layers} layers, {model.heads} heads, {model.kv_heads} KV heads "
            f"of {model.head_dim}; the KV of a token takes {model.token_bytes:,} bytes"
        )
        if (mixture := model.mixture) is not None:
            yield (
                f"{mixture.experts} experts of {mixture.intermediate} columns, each whole on one "
                "worker; by arithmetic: mixtures are served on the CPU alone so far"
            )
        yield (
            f"device {memory.total / GB:g} GB (1 GB = 10^9 bytes), "
            f"{100 * memory.usable(self.chain) / memory.total:.4g}% of it for weights and KV; "
            f"pages of {self.capacity.page_size >> 10} KiB"
        )
        yield ""
        yield "weights of a worker at degree 1         GB"
        rows = {
            "MLP, 1/d of it at degree d": model.mlp_bytes,
            "routers": model.router_bytes,
            "attention": model.attention_bytes,
            "embedding and head": model.embedding_bytes,
            "norms": model.norm_bytes,
            "all": model.replicated_bytes + model.mlp_bytes,
        }
        for name, size in rows.items():
            if size:
                yield f"  {name:<30}{size / GB:>10.3f}"


def _degrees(capacity: PlannedCapacity) -> Iterator[str]:
    waste, padding = (
        f"{size / GB:.2f} GB ({size / (capacity.total_bytes - capacity.waste_bytes):.2%})"
        for size in (capacity.waste_bytes, capacity.padding_bytes)
    )
    yield ""
    yield f"pages of the MLP: {waste} hold no weights; shards padded to whole pages: {padding}"
    if not capacity.degrees:
        yield "  no degree fits"
        return
    yield "  degree  pages freed  GB freed    lost  GB of KV  tokens of an instance  mappings"
    for row in capacity.degrees:
        yield (
            f"  {row.degree:>6}  {row.freed_pages:>11,}  {row.freed_bytes / GB:>8.2f}  "
            f"{row.lost_share:>6.2%}  {row.kv_bytes / GB:>8.2f}  {row.tokens:>21,}  "
            f"{row.mappings:>8,}"
        )


def _changes(capacity: PlannedCapacity) -> Iterator[str]:
    if not capacity.changes:
        return
    yield ""
    yield "a merge and its split"
    yield "  change  KV moved a live token  weights copied by the split  pages mapped on a GPU"
    for change in capacity.changes:
        yield (
            f"  {f'{change.low} - {change.high}':>6}  {change.kv_bytes_per_token:>13,} bytes  "
            f"{change.refilled_bytes / GB:>24.2f} GB  {change.driver_calls:>21,}"
        )


def _degree_memory(memory: DeviceMemory, chain: DegreeChain) -> Iterator[str]:
    if not memory.communicators and not memory.recorded_steps:
        yield (
            "not counted: memory of communicators and recorded steps (--communicators-mib, "
            "--recorded-steps-mib)"
        )
        return
    yield (
        f"communicators of {len(chain.degrees) - 1} degrees take "
        f"{(memory.static - memory.usable(chain)) / GB:.2f} GB of what is for weights and KV, "
        f"recorded steps of {len(chain.degrees)} "
        f"{len(chain.degrees) * memory.recorded_steps / GB:.2f} GB of the rest"
    )


def _excess(memory: DeviceMemory, chain: DegreeChain) -> str | None:
    if not (excess := memory.excess(chain)):
        return None
    return (
        f"recorded steps of {len(chain.degrees)} degrees need {excess / GB:.2f} GB more than "
        "weights and KV leave: lower --mem-fraction-static"
    )


def _misfit(capacity: PlannedCapacity, usable_bytes: int) -> str | None:
    if capacity.fits:
        return None
    others = "only those shown would fit" if capacity.degrees else "none would fit"
    return (
        f"does not fit at degree 1, where every worker starts: {capacity.weight_bytes / GB:.2f} GB "
        f"of weights and some KV, but {usable_bytes / GB:.2f} GB for both; of the higher degrees "
        f"{others}"
    )


def _waste(pages: WeightPages, layers: int) -> str | None:
    share = wasted_share(pages, layers)
    if share <= MOST_WASTE:
        return None
    size = largest_frugal_page(pages, layers, MOST_WASTE, SMALLEST_PAGE)
    cost = f"pages of {pages.page_size >> 10} KiB lose {share:.1%} of the ideal"
    below = f"--page-size-kib {size >> 10} is the largest below" if size else "no size stays below"
    return f"{cost}; {below} {MOST_WASTE:.0%}"


def _mappings(capacity: PlannedCapacity) -> str | None:
    most = max((row.mappings for row in capacity.degrees), default=0)
    if most <= MAPPING_SHARE * MAP_COUNT:
        return None
    return (
        f"up to {most:,} mappings of a worker on host memory, over {MAPPING_SHARE:.0%} of "
        f"vm.max_map_count {MAP_COUNT}: raise --page-size-kib or the sysctl"
    )
