"""A joint step of a mixture gives the logits that a request gets alone, if experts are summed."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from sglang.srt.distributed.parallel_state import patch_tensor_parallel_group
from sglang.srt.layers.quantization.unquant import UnquantizedFusedMoEMethod
from sglang.srt.runtime_context import get_parallel

from amoeba_sglang.adapters.cpu.experts import compute_experts
from amoeba_sglang.adapters.model.joint_step import JointExecutor
from tests.adapters.model.joint_group import Group
from tests.adapters.model.joint_model import LAYERS, make_mixture


@pytest.fixture(autouse=True)
def experts(monkeypatch):
    """What our platform registers, in a process that has SGLang's."""
    monkeypatch.setattr(UnquantizedFusedMoEMethod, "forward_native", compute_experts)


PROMPTS = [[5, 9, 2, 40, 33], [7, 7, 1], [60, 2, 3, 4]]


def compute(group):
    """Logits after each of the prompts, which lie with different workers, and of the next token."""
    for worker, tokens in zip(group.workers * 2, PROMPTS, strict=False):
        worker.begin(tokens)
    found = [group.step()]
    for worker in group.workers:
        for request in worker.requests:
            request.tokens.append(11)
    found.append(group.step())
    return [torch.cat([part for part in step if part is not None]) for step in found]


def logits_alone():
    found = []
    for tokens in PROMPTS:
        [worker] = Group((1,), 1, make_mixture).workers
        worker.begin(tokens)
        first = worker.step_alone()
        worker.requests[0].tokens.append(11)
        found.append((first, worker.step_alone()))
    return [torch.cat(step) for step in zip(*found, strict=True)]


def in_order(steps, workers):
    """As `logits_alone` has them: the workers take the prompts in turn."""
    order = sorted(range(len(PROMPTS)), key=lambda number: number % workers)
    return [step[torch.tensor(order).argsort()] for step in steps]


@pytest.mark.parametrize("boundary", [0, 2, LAYERS])
@pytest.mark.parametrize(("degrees", "lower", "upper"), [((1, 2), 1, 2), ((1, 2, 4), 2, 4)])
def test_at_every_boundary(degrees, lower, upper, boundary):
    group = Group(degrees, 1, make_mixture)
    group.place(boundary, lower, upper)
    for found, alone in zip(in_order(compute(group), degrees[-1]), logits_alone(), strict=True):
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)


@contextmanager
def alone(self, degree):
    """As in an instance, but nobody adds what the experts of others give."""
    experts = get_parallel().override(
        moe_ep_size=degree,
        moe_ep_rank=0,
        moe_ep_group=SimpleNamespace(all_reduce=lambda output: output),
        moe_tp_size=1,
        moe_tp_rank=0,
    )
    with patch_tensor_parallel_group(self.groups[degree], owns_attention=True), experts:
        yield


def test_without_the_sum_of_the_experts_logits_are_wrong(monkeypatch):
    monkeypatch.setattr(JointExecutor, "_instance", alone)
    group = Group((1, 2), 1, make_mixture)
    group.place(0, 1, 2)
    for found, expected in zip(in_order(compute(group), 2), logits_alone(), strict=True):
        assert (found - expected).abs().max() > 0.1


def test_a_shard_of_another_degree_gives_wrong_logits():
    group = Group((1, 2, 4), 1, make_mixture)
    group.place(0, 1, 4)
    for worker in group.workers:
        [experts] = worker.layers[1].feed_forward
        experts.switch(2)
    for found, expected in zip(in_order(compute(group), 4), logits_alone(), strict=True):
        assert (found - expected).abs().max() > 0.1
