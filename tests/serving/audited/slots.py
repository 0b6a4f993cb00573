"""Slot-level audit of a worker's pool: every slot has exactly one owner."""

from collections.abc import Mapping
from itertools import groupby

import numpy as np


def audit_slots(
    size: int,
    free: np.ndarray,
    tree: np.ndarray,
    requests: Mapping[str, np.ndarray],
    leased: np.ndarray = (),
    padding: np.ndarray = (0,),
) -> list[str]:
    """Check that each of the slots 1..size is exactly one of free, tree-owned, request-owned or
    leased.

    All arrays hold integer slots in any order. `requests`: by request id the slots that the request
    alone owns, without those of its prefix that the tree owns. `padding`: slots that nobody may
    own. Returns one line per problem (a run of slots with the same wrong owners), empty when the
    pool is clean.
    """
    owners: dict[str, np.ndarray] = {"free": free, "tree": tree, "leased": leased}
    owners |= {f"request {name}": slots for name, slots in requests.items()}
    problems: list[str] = []
    claims: dict[int, list[str]] = {}
    counts = np.zeros(size + 1, dtype=np.int64)
    arrays = {name: np.asarray(slots, dtype=np.int64).reshape(-1) for name, slots in owners.items()}
    for name, slots in arrays.items():
        inside = (slots >= 0) & (slots <= size)
        problems += [
            f"slot {slot}: outside of 0..{size}, in {name}" for slot in slots[~inside].tolist()
        ]
        arrays[name] = slots[inside]
        counts += np.bincount(arrays[name], minlength=size + 1)
    expected = np.ones(size + 1, dtype=np.int64)
    expected[np.asarray(padding, dtype=np.int64)] = 0
    wrong = np.flatnonzero(counts != expected)
    for name, slots in arrays.items():
        for slot in slots[np.isin(slots, wrong)].tolist():
            claims.setdefault(slot, []).append(name)
    states = [(slot, _state(expected[slot] == 0, claims.get(slot, []))) for slot in wrong.tolist()]
    # Neighbours with the same state have the same difference between slot and position.
    for (_, state), run in groupby(
        enumerate(states), key=lambda item: (item[1][0] - item[0], item[1][1])
    ):
        numbers = [slot for _, (slot, _) in run]
        shown = f"slot {numbers[0]}" if len(numbers) == 1 else f"slots {numbers[0]}-{numbers[-1]}"
        problems.append(f"{shown}: {state}")
    return problems


def _state(is_padding: bool, names: list[str]) -> str:
    if not names:
        return "no owner (leaked)"
    held = ", ".join(
        name if names.count(name) == 1 else f"{name} ({names.count(name)} times)"
        for name in dict.fromkeys(names)
    )
    return f"padding, but in {held}" if is_padding else f"more than one owner: {held}"
