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


class Experts(nn.Module):
    """What of upstream's FusedMoE a change of degree touches, and its dispatch of ids."""

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

    @torch.no_grad()
    def forward(self, x, weights, ids):
        local = self.dispatcher.local_expert_mapping
        if local is not None:
            ids = local[ids]
        output = SimpleNamespace(hidden_states=x, topk_output=(weights, ids, None))
        method = SimpleNamespace(moe_runner_config=self.moe_runner_config)
        return compute_experts(method, self, output).hidden_states


def make_worker(chain, index):
    experts = Experts()
    pages = WeightPages(chain, 4096, (ExpertShards.sizes(experts, chain.finest),))
    store = WeightStore(HostMemory(4096), pages, index)
    return experts, ExpertShards(experts, pages.of_layer(0), chain, index, store)


def rows(count):
    noise = torch.Generator().manual_seed(count)
    ids = torch.stack([torch.randperm(EXPERTS, generator=noise)[:CHOSEN] for _ in range(count)])
    weights = torch.rand(count, CHOSEN, generator=noise)
    return torch.randn(count, HIDDEN, generator=noise), weights, ids.to(torch.int32)


def by_definition(experts, x, weights, ids):
    total = torch.zeros_like(x)
    for row in range(len(x)):
        for weight, expert in zip(weights[row], ids[row].tolist(), strict=True):
            gate, up = (experts.w13_weight[expert].data @ x[row]).chunk(2)
            hidden = nn.functional.silu(gate) * up
            total[row] += weight * (experts.w2_weight[expert].data @ hidden)
    return total


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_the_workers_of_every_instance_sum_to_the_whole_output(chain, count):
    workers = [make_worker(chain, index) for index in range(chain.finest)]
    x, weights, ids = rows(count)
    whole = by_definition(Experts(), x, weights, ids)
    for degree in (*chain.degrees, 1):
        for _, shards in workers:
            shards.switch(degree)
        outputs = [experts(x, weights, ids) for experts, _ in workers]
        for first in range(0, chain.finest, degree):
            total = sum(outputs[first : first + degree])
            torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-4)
        assert degree == 1 or not torch.allclose(outputs[0], whole, atol=1e-3)


def test_rows_of_others_sent_to_the_first_expert_are_wrong():
    """What would go unnoticed if rows of absent experts were not left out."""
    (experts, shards), _ = workers = [make_worker(CHAINS[0], index) for index in range(2)]
    x, weights, ids = rows(5)
    whole = by_definition(Experts(), x, weights, ids)
    for each, part in workers:
        part.switch(2)
        each.dispatcher.local_expert_mapping.clamp_(min=0)
    total = sum(each(x, weights, ids) for each, _ in workers)
    assert not torch.allclose(total, whole, atol=1e-1)


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_a_shard_is_a_view_of_the_range_that_its_worker_keeps(chain):
    """What lies outside may be unmapped at any moment."""
    for index in range(chain.finest):
        experts, shards = make_worker(chain, index)
        start = experts.w13_weight.data.data_ptr()
        pages = WeightPages(chain, 4096, (ExpertShards.sizes(experts, chain.finest),))
        for degree in (*chain.degrees[1:], 1):
            shards.switch(degree)
            shard = chain.shard(degree, index % degree)
            assert experts.num_local_experts == EXPERTS // degree == len(experts.w13_weight)
            assert (experts.moe_ep_size, experts.moe_ep_rank) == (degree, shard)
            for matrix, weight in enumerate((experts.w13_weight.data, experts.w2_weight.data)):
                first, stop = pages.shard_range(matrix, degree, shard)
                assert weight.is_contiguous()
                assert (weight.data_ptr() - start, weight.nbytes) == (first, stop - first)


def test_no_bit_changes_and_new_weights_need_no_other_order():
    experts, shards = make_worker(CHAINS[0], 1)
    for degree in (2, 4, 1):
        shards.switch(degree)
    shards.restore_upstream_order()
    assert torch.equal(experts.w13_weight, Experts().w13_weight)
    experts.w2_weight.data.add_(1)
    shards.adopt_weights()
    assert torch.equal(experts.w2_weight.data, Experts().w2_weight + 1)


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ConfigError, match="--tp-size 5 does not divide the model's 12 experts"):
        ExpertShards.sizes(Experts(), 5)
    with pytest.raises(ConfigError, match="add --disable-shared-experts-fusion"):
        ExpertShards.sizes(Experts(fused=1), 2)
