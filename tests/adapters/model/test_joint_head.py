"""Vocabulary shards of all rows give every worker the logits of its own rows."""

import types

import numpy as np
import pytest
import torch
import torch.distributed as dist

from amoeba_sglang.adapters.model.joint_head import JointHead, rows_of_joint_head
from amoeba_sglang.control.worker.step_record import Row, StepRecord
from amoeba_sglang.planes.transport import create_group
from tests.processes import run_workers

HIDDEN, VOCABULARY = 16, 24
PROCESSOR = types.SimpleNamespace(_compute_lm_head=lambda rows, head: rows @ head.weight.T)


def record(rows, scores_prompts=False):
    row = Row(0, 9, 2, 9, np.empty(0, np.int64))
    return StepRecord(1, 1, 0, 1, True, rows=(row,) * rows, scores_prompts=scores_prompts)


def own_logits(rank, n, counts):
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator)
    hidden = torch.randn(sum(counts), HIDDEN, generator=generator).split(counts)[rank]
    transport = create_group("peer", dist.group.WORLD)
    head = JointHead(PROCESSOR, weight, counts, transport)
    logits = head.quant_method.apply(head, hidden, None)
    return logits.numpy(), (hidden @ weight.T).numpy()


@pytest.mark.parametrize("counts", [[3, 2], [0, 5], [1, 0, 2, 4]])
def test_own_rows_get_the_logits_of_the_whole_vocabulary(counts):
    for rank, (joint, alone) in enumerate(run_workers(len(counts), own_logits, counts)):
        assert joint.shape == (counts[rank], VOCABULARY)
        np.testing.assert_allclose(joint, alone, atol=1e-5)


def test_every_worker_brings_the_last_token_of_each_of_its_rows():
    assert rows_of_joint_head([record(3), record(0)], VOCABULARY) == [3, 0]


def test_workers_compute_their_own_logits_when_one_wants_those_of_prompt_tokens():
    records = [record(3), record(1, scores_prompts=True)]
    assert rows_of_joint_head(records, VOCABULARY) is None


def test_workers_compute_their_own_logits_if_the_vocabulary_has_no_equal_shards():
    assert rows_of_joint_head([record(1)] * 2, VOCABULARY + 1) is None
