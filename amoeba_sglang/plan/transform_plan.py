"""What a transformation moves in which step, and what it costs. A dry run prints it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amoeba_sglang.control.layout.kv_shape import KVShape
from amoeba_sglang.control.layout.locations import slots_filled
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages, layer_matrices
from amoeba_sglang.control.transform.boundary import Boundary
from amoeba_sglang.control.transform.moves import UnitMove, unit_moves, units_per_slot
from amoeba_sglang.control.transform.staging import fit_exchange


@dataclass(frozen=True)
class Step:
    """The layers that move between two joint steps, and the boundary b once they have.

    `mapped_pages`: by rank, the most pages of weights that are mapped while they move. The KV gives
    back what it had been lent before the first step and is lent the rest after the last, so no step
    needs a page that is in use elsewhere.
    """

    layers: range
    boundary: int
    mapped_pages: tuple[int, ...]


@dataclass(frozen=True)
class TransformPlan:
    """A merge or a split of one aligned block.

    `before` and `after` are degrees per rank of `ranks`, `moves` use indices into `ranks` for
    workers. `live_tokens` are rounded up to whole slots. `received_bytes[i]` is the KV that
    comes to `ranks[i]` from its peers over all steps, `peak_staging_bytes` a bound of the staging
    memory that a worker fills at any time: all the memory that the change needs beyond
    `owned_pages`, the pages that a worker has had since its start. At every time layers [0,
    boundary) are at the lower degree of their rank and layers [boundary, L) at the higher.
    """

    kind: str
    ranks: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    moves: tuple[UnitMove, ...]
    steps: tuple[Step, ...]
    live_tokens: tuple[int, ...]
    received_bytes: tuple[int, ...]
    peak_staging_bytes: int
    owned_pages: int

    @classmethod
    def build(
        cls,
        chain: DegreeChain,
        ranks: Sequence[int],
        before: Sequence[int],
        after: Sequence[int],
        live_tokens: Sequence[int],
        shape: KVShape,
        pages: WeightPages,
        staging_bytes: int,
        layers_per_step: int = 0,
    ) -> TransformPlan:
        """Plan the change of the block `ranks` from degrees `before` to `after`, which differ.

        `live_tokens`: per rank of the block, in as few slots as can be. `pages`: of the weights of
        `shape.layers` layers. `layers_per_step`: 0 moves all layers in one step. Raises ConfigError
        when `staging_bytes` cannot hold one slot of one layer.
        """
        before, after = tuple(before), tuple(after)
        assert len(ranks) == len(before) == len(after) == len(live_tokens)
        rises = [new > old for old, new in zip(before, after, strict=True) if new != old]
        assert len(set(rises)) == 1, f"{before} -> {after} is neither a merge nor a split"
        moves = unit_moves(chain, before, after)
        unit_bytes = shape.unit_bytes(chain.finest)
        live_slots = [slots_filled(tokens, shape.page) for tokens in live_tokens]
        live_units = [0] * len(ranks)
        for move in moves:
            live_units[move.target] += live_slots[move.home]
        boundary, steps = Boundary.at_start(shape.layers, falls=rises[0]), []
        while not boundary.finished:
            layers = boundary.next_layers(layers_per_step or shape.layers)
            following = boundary.after(layers)
            mapped = tuple(
                max(_kept_pages(pages, rank, change, at) for at in (boundary, following))
                for rank, change in enumerate(zip(before, after, strict=True))
            )
            steps.append(Step(layers, following.b, mapped))
            boundary = following
        most_layers = max(len(step.layers) for step in steps)
        slot_bytes = units_per_slot(moves) * unit_bytes
        # Refuses here, before anything is agreed, what the mover would refuse later.
        fit_exchange(most_layers, max(1, *live_slots), slot_bytes, staging_bytes)
        plan = cls(
            kind="merge" if rises[0] else "split",
            ranks=tuple(ranks),
            before=before,
            after=after,
            moves=moves,
            steps=tuple(steps),
            live_tokens=tuple(slots * shape.page for slots in live_slots),
            received_bytes=tuple(count * unit_bytes * shape.layers for count in live_units),
            peak_staging_bytes=min(
                staging_bytes // slot_bytes * slot_bytes,
                max(live_units) * unit_bytes * most_layers,
            ),
            owned_pages=pages.total_pages,
        )
        assert plan.peak_pages <= plan.owned_pages, (plan.peak_pages, plan.owned_pages)
        return plan

    @property
    def peak_pages(self) -> int:
        """The most weight pages that a worker has mapped at any time."""
        return max(max(step.mapped_pages) for step in self.steps)

    def describe(self) -> str:
        """The plan as lines of text for a person."""
        lines = [
            f"{self.kind} of ranks {list(self.ranks)}: "
            f"degrees {list(self.before)} -> {list(self.after)}",
            f"{sum(self.live_tokens)} live tokens, {sum(self.received_bytes) / 1e6:.1f} MB of KV "
            f"change worker, at most {self.peak_staging_bytes / 2**20:.2f} MiB of staging a worker",
        ]
        for rank, tokens, received in zip(
            self.ranks, self.live_tokens, self.received_bytes, strict=True
        ):
            lines.append(f"  rank {rank}: {tokens} live tokens, receives {received / 1e6:.1f} MB")
        for number, step in enumerate(self.steps, 1):
            lines.append(
                f"  step {number}: layers {step.layers[0]}..{step.layers[-1]}, "
                f"then b = {step.boundary}; at most {max(step.mapped_pages)} of "
                f"{self.owned_pages} weight pages mapped"
            )
        staging = self.peak_staging_bytes / 2**20
        lines += [
            f"peak memory of a worker: {self.peak_pages} of the {self.owned_pages} weight pages",
            f"that it has had since its start, and {staging:.2f} MiB of staging; the KV gives back",
            f"those it was lent before step 1, and is lent the unmapped ones after step "
            f"{len(self.steps)}",
        ]
        return "\n".join(lines)


def _kept_pages(pages: WeightPages, worker: int, change: tuple[int, int], at: Boundary) -> int:
    """Weight pages of `worker` while layers [0, at.b) are at the lower degree of its change."""
    degrees = [
        degree
        for layer in range(at.layers)
        for degree in len(layer_matrices(layer)) * [min(change) if layer < at.b else max(change)]
    ]
    return int(pages.kept(degrees, worker).sum())
