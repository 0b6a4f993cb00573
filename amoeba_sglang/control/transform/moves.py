"""Which units of a super-slot go from where to where when a block changes its degrees."""

from collections import Counter
from dataclasses import dataclass, replace

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.layout.slots import DegreeChain


@dataclass(frozen=True)
class UnitMove:
    """Unit `unit` of every live token of home worker `home` goes from one super-slot place to
    another.

    `home`, `source`, `target` are worker indices in the block; `unit`, `source_place`,
    `target_place` count units. The local slot of the token, and so the super-slot, stays the same.
    """

    home: int
    unit: int
    source: int
    source_place: int
    target: int
    target_place: int


def unit_moves(
    chain: DegreeChain, before: tuple[int, ...], after: tuple[int, ...]
) -> tuple[UnitMove, ...]:
    """Moves inside one aligned block; `before` and `after` are degrees per worker index of the
    block.

    Only units that really move, and these always change worker: a unit that keeps its worker keeps
    its place.
    """
    # Layout refuses degrees that are not aligned instances.
    assert Layout(before).workers == Layout(after).workers <= chain.finest, (before, after)
    moves = []
    for home, (old, new) in enumerate(zip(before, after, strict=True)):
        for unit in range(chain.finest):
            source, target = chain.place(old, home, unit), chain.place(new, home, unit)
            if source != target:
                moves.append(UnitMove(home, unit, *source, *target))
    return tuple(moves)


def units_per_slot(moves: tuple[UnitMove, ...]) -> int:
    """The most units of one super-slot that any worker receives, or that any worker sends."""
    received = Counter(move.target for move in moves)
    sent = Counter(move.source for move in moves)
    return max((received | sent).values(), default=0)


def find_cycles(moves: tuple[UnitMove, ...]) -> list[tuple[UnitMove, ...]]:
    """`moves` of a block in cycles, each in the order in which it can be made in place.

    Of a cycle (a, b, .., z) the unit of `a` is set aside first; then b goes to where a was, and so
    on; at last a goes to where z was. It leaves each place before another unit gets there, whether
    or not some of its units are dead.
    """
    into = {(move.target, move.target_place): move for move in moves}
    found = []
    while into:
        _, move = into.popitem()
        cycle = [move]
        while (before := into.pop((move.source, move.source_place), None)) is not None:
            cycle.append(before)
            move = before
        assert (move.source, move.source_place) == (cycle[0].target, cycle[0].target_place), (
            f"the moves of a block permute its places, but these do not: {cycle}"
        )
        found.append(tuple(cycle))
    return found


def widen(moves: tuple[UnitMove, ...], finest: int) -> tuple[int, tuple[UnitMove, ...]]:
    """Join moves of neighbouring units into moves of runs of `width` units, as wide as all of them
    allow.

    Returns (width, moves); units and places of these moves count runs, finest/width to a
    super-slot.
    """
    known = set(moves)

    def heads(width: int) -> list[UnitMove]:
        return [
            move
            for move in moves
            if not (move.unit % width or move.source_place % width or move.target_place % width)
            and all(_shifted(move, step) in known for step in range(1, width))
        ]

    for width in range(finest, 0, -1):
        if finest % width == 0 and len(runs := heads(width)) * width == len(moves):
            return width, tuple(_scaled(move, width) for move in runs)
    raise AssertionError("width 1 always fits")


def _shifted(move: UnitMove, step: int) -> UnitMove:
    return replace(
        move,
        unit=move.unit + step,
        source_place=move.source_place + step,
        target_place=move.target_place + step,
    )


def _scaled(move: UnitMove, width: int) -> UnitMove:
    return replace(
        move,
        unit=move.unit // width,
        source_place=move.source_place // width,
        target_place=move.target_place // width,
    )
