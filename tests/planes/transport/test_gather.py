import pickle

import pytest
import torch.distributed as dist
from torch.distributed import distributed_c10d

from amoeba_sglang.planes.transport.gather import gather_values
from tests.processes import run_workers


def _gather(rank: int, n: int):
    def refuse(*_, **__):
        raise AssertionError("nothing that comes from a connection may be unpickled")

    pickle.loads = pickle.load = pickle.Unpickler = refuse
    # torch has a name of its own for it; what it offers shows that the refusal is in the way.
    distributed_c10d._unpickler = refuse
    with pytest.raises(AssertionError, match="unpickled"):
        dist.all_gather_object([None] * n, rank)
    return [
        gather_values(dist.group.WORLD, value)
        for value in ([rank, None], "é" * rank, "", {"pid": 2**40 + rank})
    ]


def test_values_of_any_length_come_by_rank_without_pickles():
    for values in run_workers(3, _gather):
        assert values == [
            [[0, None], [1, None], [2, None]],
            ["", "é", "éé"],
            ["", "", ""],
            [{"pid": 2**40}, {"pid": 2**40 + 1}, {"pid": 2**40 + 2}],
        ]
