"""Copies that have been noted and not yet made."""

import numpy as np
import pytest

from amoeba_sglang.control.shares.departure import Order
from amoeba_sglang.control.shares.ledger import Ledger
from amoeba_sglang.control.shares.moves import Moves
from amoeba_sglang.control.shares.seat import Seat
from tests.control.shares.group import Group
from tests.control.shares.worker import CHAIN, GROWN, OWN


def ids(*slots):
    return np.array(slots, dtype=np.int64)


def test_who_frees_a_target_cancels_its_copy():
    moves = Moves()
    moves.note(ids(11, 12, 13), ids(1, 2, 3))
    assert moves.cancel(ids(2, 9)).tolist() == [12]
    assert (moves.source.tolist(), moves.target.tolist()) == ([11, 13], [1, 3])
    assert moves.finish().tolist() == [11, 13]
    assert not len(moves)


def test_an_evicted_target_frees_the_source_as_well():
    """The copy came later, over what another request had written there."""
    ledger = Ledger(OWN)
    ledger.share(Seat(CHAIN, 2, 0), GROWN[2])
    source = ledger.extra.take(3)
    ledger.moves.note(source, ids(1, 2, 3))
    assert ledger.release(ids(2)).tolist() == [2]
    assert ledger.moves.target.tolist() == [1, 3]
    assert ledger.extra.in_use == 2
    ledger.release(ledger.moves.finish())
    assert not ledger.extra.in_use


@pytest.mark.parametrize("degree", [2, 4])
def test_nothing_moves_into_the_cache_from_a_vote_until_slots_are_shared_again(degree):
    """No worker copied it meanwhile: who hit it read what had never been written."""
    group = Group()
    group.merge(0, degree)
    ledger, worker = group.workers[0].ledger, group.workers[0]
    assert ledger.room_to_move(5) == 5
    kept = range(2 if degree == 4 else 1)
    ledger.prepare(Order(kept, 1, 1), worker.claims(), worker)
    assert ledger.verdict == "" and ledger.room_to_move(5) == 0
    ledger.leave(6 - degree, worker)
    assert ledger.room_to_move(5) == 0
    ledger.share(Seat(CHAIN, 6 - degree, 0), 0)
    assert ledger.room_to_move(5) == 5
