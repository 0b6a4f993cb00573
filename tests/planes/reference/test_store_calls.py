"""What upstream's kernel for new keys and values takes and refuses."""

import pytest
import torch

from amoeba_sglang.planes.reference.calls import KernelRefusal
from amoeba_sglang.planes.reference.store_calls import StoreCalls


def real(k, v, k_cache, v_cache, indices, row_dim, size_limit, v_row_dim=None):
    """Of upstream's function the arguments that matter here."""


def store(slots, limit=6):
    keys, values = torch.zeros(6, 2, 4), torch.zeros(6, 2, 4)
    new = torch.arange(8.0 * len(slots)).view(-1, 2, 4) + 1
    StoreCalls(real).store(new, -new, keys, values, torch.tensor(slots), 8, size_limit=limit)
    return new, keys, values


def test_tokens_come_where_they_should_and_padding_nowhere():
    new, keys, values = store([5, 0, 2])
    assert torch.equal(keys[[5, 2]], new[[0, 2]]) and torch.equal(values, -keys)
    assert not keys[[0, 1, 3, 4]].any()


@pytest.mark.parametrize(
    ("slots", "limit", "line"),
    [
        ([6], 6, r"slots \[6\] of a pool of 6"),
        ([-1], 6, r"slots \[-1\]"),
        ([4], 4, r"slots \[4\] of a pool of 4"),
        ([1], 4, "6 slots, told of 4"),
    ],
)
def test_slots_that_are_not_there_are_refused(slots, limit, line):
    with pytest.raises(KernelRefusal, match=line):
        store(slots, limit)
