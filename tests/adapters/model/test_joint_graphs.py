"""Which steps are replayed, and with what."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sglang.srt.model_executor.cuda_graph_config import PhaseConfig

from amoeba_sglang.adapters.model import plane
from amoeba_sglang.adapters.model.joint_graphs import JointGraphs
from amoeba_sglang.adapters.model.union_batch import UnionBatch
from amoeba_sglang.control.worker.step_record import Row, StepRecord
from amoeba_sglang.planes.memory.base import MemoryFault

WIDTH = 7


class Attention:
    def __init__(self):
        self.made, self.filled = [], []

    def make_joint_metadata(self, batch, slots, width):
        self.made.append((batch.batch_size, width))
        return f"of {batch.batch_size}"

    def fill_joint_metadata(self, metadata, batch, slots):
        self.filled.append((metadata, slots))


class Device:
    """Launches again what was launched."""

    def capture(self, launch, group):
        return SimpleNamespace(replay=launch), launch()


def union_of(rows, degree=2):
    count = degree * rows
    batch = SimpleNamespace(
        batch_size=count,
        seq_lens=torch.ones(count, dtype=torch.int64),
        out_cache_loc=torch.zeros(count, dtype=torch.int64),
        positions=torch.zeros(count, dtype=torch.int64),
    )
    return UnionBatch(batch, [torch.zeros(1)] * count, [rows] * degree)


def compute(batch, ids):
    """ "Logits" that say what they were computed from, in the same memory each time."""
    held = compute.memory.setdefault(len(ids), torch.zeros(len(ids), 2))
    held[:, 0], held[:, 1] = ids, batch.seq_lens[: len(ids)]
    return held


@pytest.fixture
def made():
    compute.memory = {}
    graphs, attention = JointGraphs([1, 2, 4]), Attention()
    group = SimpleNamespace(graph_capture=nullcontext)
    graphs.record(
        2, union_of, compute, attention=attention, width=WIDTH, group=group,
        meet=lambda: attention.made.append("met"), device=Device(),
    )  # fmt: skip
    return graphs, attention


def record(rows, **told):
    row = Row(0, 5, 1, 0, np.zeros(1, dtype=np.int64))
    return StepRecord(1, 1, 0, -1, bool(rows), rows=(row,) * rows, **told)


def test_the_largest_is_recorded_first_with_memory_for_the_longest_row(made):
    _, attention = made
    assert attention.made == [(8, WIDTH), "met", (4, WIDTH), "met", (2, WIDTH), "met"]


@pytest.mark.parametrize(
    ("rows", "bucket"), [((1, 0), 1), ((0, 2), 2), ((3, 1), 4), ((4, 4), 4), ((5, 0), None)]
)
def test_a_step_has_the_graph_that_holds_its_longest_part(made, rows, bucket):
    graphs, _ = made
    found = graphs.find(2, [record(count) for count in rows])
    assert (found and found.rows) == bucket
    assert graphs.without == (found is None)


@pytest.mark.parametrize("told", [{"extend": True}, {"scores_prompts": True}])
def test_prompts_are_no_plain_decode_steps(made, told):
    graphs, _ = made
    assert graphs.find(2, [record(1), record(1, **told)]) is None
    assert graphs.find(2, [record(0)] * 2) is None, "nothing to run"
    assert graphs.without == 0
    assert graphs.find(4, [record(1)] * 4) is None, "not recorded"
    assert graphs.without == 1


def test_a_replay_takes_what_is_new_and_gives_own_logits(made):
    graphs, attention = made
    recorded = graphs.find(2, [record(1), record(2)])
    union = union_of(2)
    union.batch.seq_lens.copy_(torch.tensor([9, 8, 7, 6]))
    own = SimpleNamespace(input_ids=torch.tensor([40]))
    logits = recorded.replay(own, union, attention)
    assert logits.tolist() == [[40.0, 9.0]]
    assert attention.filled[-1] == ("of 4", union.slots)
    assert recorded.replay(None, union, attention).shape == (0, 2)


def test_a_device_without_memory_for_a_graph_says_what_to_do():
    def run_out(batch, ids):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryFault, match="degree 2 with 4 rows a worker: .* --disable-cuda-graph"):
        JointGraphs([1, 4]).record(
            2, union_of, run_out, attention=Attention(), width=WIDTH, group=None,
            meet=lambda: None, device=Device(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("decode", "rows", "buckets"),
    [
        (PhaseConfig("disabled", bs=[1, 2]), 8, []),
        (PhaseConfig("full", bs=[1, 2, 4, 8, 12]), 8, [1, 2, 4, 8]),
        (PhaseConfig("full", bs=[1, 2, 4, 8, 12]), 9, [1, 2, 4, 8, 12]),
        (PhaseConfig("full", bs=[1, 2]), 9, [1, 2]),
        (PhaseConfig("full"), 17, [1, 2, 4, 8, 16, 24]),
    ],
)
def test_steps_are_recorded_for_as_many_rows_as_sglang_records(monkeypatch, decode, rows, buckets):
    config = SimpleNamespace(
        graph=SimpleNamespace(cuda_graph_config=SimpleNamespace(decode=decode))
    )
    monkeypatch.setattr(plane, "get_exec", lambda: config)
    assert plane.graph_buckets(rows) == buckets
