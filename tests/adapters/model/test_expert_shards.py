"""Experts cut into runs of whole ones give the whole output when the workers' are summed."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from amoeba_sglang.adapters.cpu.experts import compute_experts
from amoeba_sglang.adapters.model.expert_shards import ExpertShards
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.memory.host import HostMemory
from amoeba_sglang.planes.pages.weight_store import WeightStore

CHAINS = [DegreeChain(degrees) for degrees in [(1, 2, 4), (1, 4), (1, 2, 6)]]
EXPERTS, HIDDEN, COLUMNS, CHOSEN = 12, 20, 8, 3
ORDER = [7, 0, 11, 3, 5, 1, 10, 2, 8, 6, 4, 9]


class Experts(nn.Module):
    """What of upstream's FusedMoE a change of degree touches."""

    def __init__(self, experts=EXPERTS, fused=0):
        super().__init__()
        noise = torch.Generator().manual_seed(4)
        self.num_experts = self.num_local_experts = experts
        self.num_fused_shared_experts = fused
        self.moe_tp_size = self.moe_ep_size = 1
        self.moe_ep_rank, self._num_local_routed = 0, experts
        self.w13_weight = nn.Parameter(torch.randn(experts, 2 * COLUMNS, HIDDEN, generator=noise))
        self.w2_weight = nn.Parameter(torch.randn(experts, HIDDEN, COLUMNS, generator=noise))
        self.moe_runner_config = SimpleNamespace(
            num_local_experts=experts,
            activation="silu",
            gemm1_alpha=None,
            apply_router_weight_on_input=False,
        )
        self.dispatcher = SimpleNamespace(local_expert_mapping=None)


class Block(nn.Module):
    """A gate that chooses experts, and its dispatch of their numbers."""

    def __init__(self, **fields):
        super().__init__()
        self.experts = Experts(**fields)
        self.gate = nn.Linear(HIDDEN, self.experts.num_experts, bias=False)
        noise = torch.Generator().manual_seed(6)
        self.gate.weight.data.normal_(generator=noise)

    @torch.no_grad()
    def route(self, x):
        weights, ids = self.gate(x).topk(CHOSEN)
        return weights.softmax(-1), ids.to(torch.int32)

    def forward(self, x):
        weights, ids = self.route(x)
        local = self.experts.dispatcher.local_expert_mapping
        if local is not None:
            ids = local[ids]
        output = SimpleNamespace(hidden_states=x, topk_output=(weights, ids, None))
        method = SimpleNamespace(moe_runner_config=self.experts.moe_runner_config)
        with torch.no_grad():
            return compute_experts(method, self.experts, output).hidden_states


def make_worker(chain, index, order=None):
    block = Block()
    pages = WeightPages(chain, 4096, (ExpertShards.sizes(block, chain.finest),))
    store = WeightStore(HostMemory(4096), pages, index)
    return block, ExpertShards(block, pages.of_layer(0), chain, index, store, order=order)


def rows(count):
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(count))


@torch.no_grad()
def by_definition(x):
    block = Block()
    experts, (weights, ids) = block.experts, block.route(x)
    total = torch.zeros_like(x)
    for row in range(len(x)):
        for weight, expert in zip(weights[row], ids[row].tolist(), strict=True):
            gate, up = (experts.w13_weight[expert].data @ x[row]).chunk(2)
            hidden = nn.functional.silu(gate) * up
            total[row] += weight * (experts.w2_weight[expert].data @ hidden)
    return total


@pytest.mark.parametrize("order", [None, ORDER], ids=["as loaded", "in another order"])
@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_the_workers_of_every_instance_sum_to_the_whole_output(chain, count, order):
    workers = [make_worker(chain, index, order) for index in range(chain.finest)]
    x = rows(count)
    whole = by_definition(x)
    for degree in (*chain.degrees, 1):
        for _, shards in workers:
            shards.switch(degree)
        outputs = [block(x) for block, _ in workers]
        for first in range(0, chain.finest, degree):
            total = sum(outputs[first : first + degree])
            torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-4)
        # All experts of a lone row may be with one worker.
        assert degree == 1 or count == 1 or not torch.allclose(outputs[0], whole, atol=1e-3)


def test_rows_of_others_sent_to_the_first_expert_are_wrong():
    """What would go unnoticed if rows of absent experts were not left out."""
    workers = [make_worker(CHAINS[0], index) for index in range(2)]
    x = rows(5)
    for block, shards in workers:
        shards.switch(2)
        block.experts.dispatcher.local_expert_mapping.clamp_(min=0)
    total = sum(block(x) for block, _ in workers)
    assert not torch.allclose(total, by_definition(x), atol=1e-1)


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_a_shard_is_a_view_of_the_range_that_its_worker_keeps(chain):
    """What lies outside may be unmapped at any moment."""
    for index in range(chain.finest):
        block, shards = make_worker(chain, index)
        experts = block.experts
        start = experts.w13_weight.data.data_ptr()
        pages = WeightPages(chain, 4096, (ExpertShards.sizes(block, chain.finest),))
        for degree in (*chain.degrees[1:], 1):
            shards.switch(degree)
            shard = chain.shard(degree, index % degree)
            assert experts.num_local_experts == EXPERTS // degree == len(experts.w13_weight)
            assert (experts.moe_ep_size, experts.moe_ep_rank) == (degree, shard)
            for matrix, weight in enumerate((experts.w13_weight.data, experts.w2_weight.data)):
                first, stop = pages.shard_range(matrix, degree, shard)
                assert weight.is_contiguous()
                assert (weight.data_ptr() - start, weight.nbytes) == (first, stop - first)


@pytest.mark.parametrize("order", [None, ORDER], ids=["as loaded", "in another order"])
def test_the_checkpoint_s_order_comes_back_bit_for_bit_and_new_weights_are_adopted(order):
    block, shards = make_worker(CHAINS[0], 1, order)
    for degree in (2, 4, 1):
        shards.switch(degree)
    shards.restore_upstream_order()
    for mine, theirs in zip(block.parameters(), Block().parameters(), strict=True):
        assert torch.equal(mine, theirs)
    block.experts.w2_weight.data.mul_(2)
    shards.adopt_weights()
    torch.testing.assert_close(block(rows(5)), 2 * by_definition(rows(5)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("order", [None, ORDER], ids=["as loaded", "in another order"])
def test_choices_of_own_rows_are_counted_by_the_numbers_of_the_checkpoint(order):
    block, shards = make_worker(CHAINS[0], 0, order)
    x = rows(30)
    _, ids = Block().route(x)
    expected = torch.bincount(ids.flatten(), minlength=EXPERTS).tolist()
    for degree in (1, 2, 1):
        shards.switch(degree)
        block(x)
    assert shards.chosen_by_number == [2 * count for count in expected]


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ConfigError, match="--tp-size 5 does not divide the model's 12 experts"):
        ExpertShards.sizes(Block(), 5)
    with pytest.raises(ConfigError, match="add --disable-shared-experts-fusion"):
        ExpertShards.sizes(Block(fused=1), 2)
