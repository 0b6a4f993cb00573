"""Which devices reach each other's memory, and in which order every block of them does."""

from collections.abc import Sequence
from itertools import combinations

Reach = Sequence[Sequence[bool]]
"""[n][n]: whether device i may read and write the memory of device j."""


def cut_block(reach: Reach, width: int) -> tuple[int, int] | None:
    """Two devices of one block of `width` neighbours that do not reach each other both ways; None
    if all blocks are whole. Blocks are aligned; the devices are as many as some of them have."""
    for first in range(0, len(reach) - len(reach) % width, width):
        for one, other in combinations(range(first, first + width), 2):
            if not (reach[one][other] and reach[other][one]):
                return one, other
    return None


def find_order(reach: Reach, width: int, blocks: int) -> tuple[int, ...] | None:
    """Devices, `blocks` * `width` of them, in an order in which all of each block reach each other;
    None if there is none. The first one that is found, of low numbers before high ones."""

    def extend(block: tuple[int, ...], left: tuple[int, ...], missing: int) -> tuple | None:
        if len(block) == width:
            if missing == 1:
                return block
            rest = place(left, missing - 1)
            return None if rest is None else block + rest
        for position, device in enumerate(left):
            if all(reach[device][peer] and reach[peer][device] for peer in block):
                found = extend((*block, device), left[:position] + left[position + 1 :], missing)
                if found is not None:
                    return found
        return None

    def place(left: tuple[int, ...], missing: int) -> tuple | None:
        # Whichever block has the lowest device may as well be the first, if that one is in any.
        for position, device in enumerate(left):
            rest = left[position + 1 :]
            if len(rest) + 1 < missing * width:
                return None
            found = extend((device,), rest, missing)
            if found is not None:
                return found
        return None

    return place(tuple(range(len(reach))), blocks)
