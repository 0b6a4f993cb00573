"""What a transformation moves in which step, and what it costs. A dry run prints it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amoeba_sglang.control.layout.kv_shape import KVShape
from amoeba_sglang.control.layout.locations import slots_filled
from amoeba_sglang.control.layout.partition import Layout, LayoutError
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.control.transform.boundary import Boundary
from amoeba_sglang.control.transform.moves import UnitMove, unit_moves, units_per_slot
from amoeba_sglang.control.transform.staging import fit_exchange
from amoeba_sglang.errors import ConfigError


@dataclass(frozen=True)
class Step:
    """The layers that move between two joint steps, and the boundary b once they have.

    `mapped_pages`: by worker, the most pages of weights that are mapped while they move. The KV
    gives back what it had been lent before the first step and is lent the rest after the last, so
    no step needs a page that is in use elsewhere.
    """

    layers: range
    boundary: int
    mapped_pages: tuple[int, ...]


@dataclass(frozen=True)
class TransformPlan:
    """A merge or a split of one aligned block, by worker of the block where a tuple has no other
    meaning.

    `before` and `after` are degrees. `live_tokens` are rounded up to whole slots. `received_bytes`:
    the KV that comes from peers over all steps. `peak_staging_bytes`: a bound of the staging memory
    that a worker fills at any time: all the memory that the change needs beyond `owned_pages`, the
    pages that a worker has had since its start. At every time layers [0, boundary) are at the lower
    degree of their worker and layers [boundary, L) at the higher.
    """

    kind: str
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
        change: tuple[Sequence[int], Sequence[int]],
        live_tokens: Sequence[int],
        shape: KVShape,
        pages: WeightPages,
        *,
        staging_bytes: int,
        layers_per_step: int = 0,
    ) -> TransformPlan:
        """Plan the `change` of a block from degrees to others, which differ.

        `live_tokens`: by worker, in as few slots as can be. `pages`: of the weights of
        `shape.layers` layers. `layers_per_step`: 0 moves all layers in one step. Raises ConfigError
        when `staging_bytes` cannot hold one slot of one layer.
        """
        before, after = map(tuple, change)
        moves = unit_moves(pages.chain, before, after)
        unit_bytes = shape.unit_bytes(pages.chain.finest)
        live_slots = [slots_filled(tokens, shape.page) for tokens in live_tokens]
        live_units = [0] * len(before)
        for move in moves:
            live_units[move.target] += live_slots[move.home]
        falls = max(after) > min(before)
        steps = _plan_steps((before, after), pages, shape.layers, falls, layers_per_step)
        most_layers = max(len(step.layers) for step in steps)
        slot_bytes = units_per_slot(moves) * unit_bytes
        # Refuses here, before anything is agreed, what the mover would refuse later.
        fit_exchange(most_layers, max(1, *live_slots), slot_bytes, staging_bytes)
        plan = cls(
            kind="merge" if falls else "split",
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
        staging = self.peak_staging_bytes / 2**20
        workers = zip(self.live_tokens, self.received_bytes, strict=True)
        lines = [
            f"{self.kind} of ranks {list(range(len(self.before)))}: "
            f"degrees {list(self.before)} -> {list(self.after)}",
            f"{sum(self.live_tokens)} live tokens, {sum(self.received_bytes) / 1e6:.1f} MB of KV "
            f"change worker, at most {staging:.2f} MiB of staging a worker",
            *(
                f"  rank {rank}: {tokens} live tokens, receives {received / 1e6:.1f} MB"
                for rank, (tokens, received) in enumerate(workers)
            ),
            *(
                f"  step {number}: layers {step.layers[0]}..{step.layers[-1]}, "
                f"then b = {step.boundary}; at most {max(step.mapped_pages)} of "
                f"{self.owned_pages} weight pages mapped"
                for number, step in enumerate(self.steps, 1)
            ),
            f"peak memory of a worker: {self.peak_pages} of the {self.owned_pages} weight pages",
            f"that it has had since its start, and {staging:.2f} MiB of staging; the KV gives back",
            f"those it was lent before step 1, and is lent the unmapped ones after step "
            f"{len(self.steps)}",
        ]
        return "\n".join(lines)


def parse_change(text: str, chain: DegreeChain) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`"1,1:2,2"` as the degrees of a block's workers before and after; else ConfigError."""
    try:
        before, after = (tuple(map(int, side.split(","))) for side in text.split(":"))
    except ValueError:
        raise ConfigError(f"--transform {text}: not two lists of degrees like 1,1:2,2") from None
    for side in (before, after):
        try:
            Layout(side)
        except LayoutError as error:
            raise ConfigError(f"--transform {text}: {error}") from None
    changes = {(new > old) - (new < old) for old, new in zip(before, after, strict=False)}
    if (
        len(before) != len(after)
        or len(before) not in chain.degrees
        or not {*before, *after} <= set(chain.degrees)
        or len(changes - {0}) != 1
    ):
        raise ConfigError(
            f"--transform {text}: not a merge or a split of one block with the degrees "
            f"{','.join(map(str, chain.degrees))}"
        )
    return before, after


def _plan_steps(
    change: tuple[tuple[int, ...], tuple[int, ...]],
    pages: WeightPages,
    layers: int,
    falls: bool,
    layers_per_step: int,
) -> list[Step]:
    boundary, steps = Boundary.at_start(layers, falls), []
    while not boundary.finished:
        moved = boundary.next_layers(layers_per_step or layers)
        following = boundary.after(moved)
        mapped = tuple(
            max(_kept_pages(pages, worker, degrees, at) for at in (boundary, following))
            for worker, degrees in enumerate(zip(*change, strict=True))
        )
        steps.append(Step(moved, following.b, mapped))
        boundary = following
    return steps


def _kept_pages(pages: WeightPages, worker: int, change: tuple[int, int], at: Boundary) -> int:
    """Weight pages of `worker` while layers [0, at.b) are at the lower degree of its change."""
    degrees = [
        degree
        for layer in range(at.layers)
        for degree in len(pages.of_layer(layer)) * [min(change) if layer < at.b else max(change)]
    ]
    return int(pages.kept(degrees, worker).sum())
