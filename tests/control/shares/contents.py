"""Who wrote what into every slot, so that a late copy, or a second owner, shows when it is read."""

from collections.abc import Sequence

import numpy as np

from amoeba_sglang.control.layout.slots import FIRST_LEASED
from tests.control.shares.worker import CHAIN, OWN, Worker


class Contents:
    """By the finest joint slot, which is the same for every degree: (number, request) of tokens."""

    def __init__(self, page: int) -> None:
        self.page = page
        self._written: dict[tuple[int, int], dict[int, tuple[int, str]]] = {}
        # By (worker, slot): of which request it is which page.
        self._cached: dict[tuple[int, int], tuple[int, str]] = {}

    def write(self, worker: Worker, slot: int, number: int, key: str) -> None:
        """Token `number` of the request `key`; the first of a page replaces what was there."""
        place, offset = _address(worker, slot), number % self.page
        kept = self._written.get(place, {}) if offset else {}
        self._written[place] = {**kept, offset: (number, key)}
        self._cached.pop((worker.index, slot), None)

    def cache(self, worker: Worker, slots: list[int], key: str) -> None:
        """The first slots of an ended request stay readable."""
        for number, slot in enumerate(slots):
            self._cached[worker.index, slot] = (number, key)

    def copy(self, anchor: Worker, source: int, target: int) -> None:
        self._written[_address(anchor, target)] = dict(self._written[_address(anchor, source)])

    def check(self, workers: Sequence[Worker]) -> None:
        """Every slot has one owner and holds what its owner wrote."""
        for worker in workers:
            _check_owners(worker)
            self._check_tokens(worker)
        lent = sum(len(worker.ledger.lent) for worker in workers)
        assert lent == sum(len(worker.ledger.extra.leased) for worker in workers)

    def _check_tokens(self, worker: Worker) -> None:
        moves = worker.ledger.moves
        pending = dict(zip(moves.target.tolist(), moves.source.tolist(), strict=True))

        def read(slot: int) -> dict[int, tuple[int, str]]:
            return self._written[_address(worker, pending.get(slot, slot))]

        for request in worker.live:
            for number in range(request.held):
                found = read(request.slots[number // self.page])[number % self.page]
                assert found == (number, request.key), (found, number, request.key)
        for slot in worker.cache:
            page, key = self._cached[worker.index, slot]
            for offset, found in read(slot).items():
                assert found == (page * self.page + offset, key), (found, page, key)


def _address(worker: Worker, slot: int) -> tuple[int, int]:
    """The one name of a slot of a worker: (home, local slot), or the anchor's grown slot."""
    if slot < FIRST_LEASED:
        return worker.index, slot
    leased = np.array([slot])
    [home] = [index for index in range(CHAIN.finest) if CHAIN.leased_from(index, leased)[0]]
    return home, int(CHAIN.lent_slots(leased)[0])


def _check_owners(worker: Worker) -> None:
    ledger = worker.ledger
    owned = [
        *worker.free, *worker.cache, *ledger.lent.tolist(), *ledger.kept.tolist(),
        *ledger.extra.free.tolist(), *ledger.extra.withheld.tolist(),
        *ledger.moves.source.tolist(), *(slot for r in worker.live for slot in r.slots),
    ]  # fmt: skip
    everything = [*range(1, OWN + ledger.extra.grown + 1), *ledger.extra.leased.tolist()]
    assert sorted(owned) == sorted(everything), f"worker {worker.index}"
