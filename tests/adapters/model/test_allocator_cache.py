"""What of a long request the prefix cache gets, and what is withheld or copied for it."""

import numpy as np
import torch

from amoeba_sglang.control.layout.slots import FIRST_LEASED
from tests.adapters.model.allocators import GROWN, LONG, SHORT, SIZE, Tree, make, request, take


def ended(tokens=SIZE - 1):
    req = request(tokens)
    req.finished = lambda: True
    return req


def moves(allocator):
    return allocator.ledger.moves.source, allocator.ledger.moves.target


def test_the_tree_gets_a_long_request_s_tokens_on_own_slots_when_it_has_ended():
    allocator, req = make(), ended()
    (slots,) = take(allocator, (req, GROWN + 2))
    row = torch.tensor(slots, dtype=torch.int32)
    assert allocator.prepare_checkpoint(req, row) == len(row)
    assert sorted(row.tolist()) == list(range(1, GROWN + 3))
    source, target = moves(allocator)
    assert source.tolist() == slots[:GROWN]
    assert target.tolist() == row.tolist()[:GROWN]
    # Nobody may use the old slots before all workers have copied them.
    assert allocator.ledger.extra.in_use == GROWN
    allocator.finish_moves()
    assert allocator.ledger.extra.in_use == 0
    assert allocator.available_size() == SIZE - GROWN - 2


def test_the_tree_gets_full_slots_of_a_long_request_that_has_ended():
    allocator, req = make(page=4), ended(4 * SIZE)
    (locations,) = take(allocator, (req, 4 * 3 + 2))
    row = torch.tensor(locations, dtype=torch.int32)
    assert allocator.prepare_checkpoint(req, row) == len(row)
    source, target = moves(allocator)
    assert source.tolist() == [SIZE + 1, SIZE + 2, SIZE + 3]
    assert row.tolist() == [4 * slot + n for slot in target.tolist() for n in range(4)] + [56, 57]
    allocator.free_segment(row[12:].long(), start_pos=12)
    allocator.finish_moves()
    assert allocator.ledger.extra.in_use == 0
    allocator.alloc(4 * (SIZE - 4))
    (locations,) = take(allocator, (req, 4 * 3 + 2))
    row = torch.tensor(locations, dtype=torch.int32)
    assert allocator.prepare_checkpoint(req, row) == 4
    assert row.tolist()[4:] == locations[4:]


def test_what_does_not_fit_into_free_own_slots_stays_out_of_the_tree():
    allocator, req = make(), ended()
    allocator.alloc(SIZE - 3)
    (slots,) = take(allocator, (req, GROWN + 1))
    row = torch.tensor(slots, dtype=torch.int32)
    assert allocator.prepare_checkpoint(req, row) == 2
    assert row.tolist()[2:] == slots[2:]
    assert allocator.available_size() == 0
    allocator.free(row[2:].long())
    allocator.finish_moves()
    assert allocator.ledger.extra.in_use == 0


def test_the_tree_gets_nothing_of_a_long_request_that_runs_and_all_of_a_short_one():
    allocator, running = make(), request(SIZE - 1)
    (slots,) = take(allocator, (running, 3))
    assert allocator.prepare_checkpoint(running, torch.tensor(slots)) == 0
    (slots,) = take(allocator, (SHORT, 3))
    assert allocator.prepare_checkpoint(SHORT, torch.tensor(slots)) == 3
    assert not len(allocator.ledger.moves)


def test_nothing_moves_into_the_tree_while_a_transformation_is_under_way():
    """No worker would copy it before another request could read it."""
    allocator, req = make(), ended()
    allocator.ledger.extra.lease(np.array([FIRST_LEASED + 9]))
    (slots,) = take(allocator, (req, GROWN + 2))
    row = torch.tensor([*slots[-1:], *slots[:-1]])
    allocator.ledger.extra.close(lambda extra: extra >= FIRST_LEASED)
    assert allocator.prepare_checkpoint(req, row) == 1
    assert not len(allocator.ledger.moves)


def test_closed_extra_slots_are_withheld_however_they_become_free():
    allocator = make()
    allocator.ledger.extra.lease(np.array([FIRST_LEASED + 9]))
    (slots,) = take(allocator, (LONG, 2))
    allocator.ledger.extra.close(lambda extra: extra >= FIRST_LEASED)
    assert allocator.ledger.extra.free.tolist() == [FIRST_LEASED + 9]
    allocator.free(torch.tensor(slots))
    allocator.ledger.extra.lease(np.array([FIRST_LEASED + 11]))
    assert take(allocator, (LONG, 3)) == [[FIRST_LEASED + 11, FIRST_LEASED + 9, 1]]
    allocator.ledger.extra.open()
    assert sorted(allocator.ledger.extra.free.tolist()) == list(range(SIZE + 1, SIZE + GROWN + 1))


def test_who_evicts_what_is_yet_to_be_copied_gets_no_late_copy():
    """The copy came over what the next owner of the slot had written."""
    allocator, req = make(), ended()
    (slots,) = take(allocator, (req, 4))
    row = torch.tensor(slots)
    allocator.prepare_checkpoint(req, row)
    tree = Tree(allocator, row.tolist())
    assert take(allocator, (SHORT, SIZE - 1), tree=tree) is not None
    source, target = moves(allocator)
    assert target.tolist() == tree.slots.tolist() == row.tolist()[3:]
    assert source.tolist() == slots[3:]
    assert allocator.ledger.extra.in_use == 1
    allocator.finish_moves()
    assert allocator.ledger.extra.in_use == 0


def test_a_flush_forgets_what_was_to_be_copied():
    allocator, req = make(), ended()
    (slots,) = take(allocator, (req, 4))
    allocator.prepare_checkpoint(req, torch.tensor(slots))
    allocator.clear()
    assert not len(allocator.ledger.moves)
    assert allocator.ledger.extra.in_use == 0
    assert allocator.available_size() == SIZE
