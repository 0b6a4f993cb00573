"""A decoder layer of upstream's is pointed at its shard of a degree and back."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from amoeba_sglang.adapters.model.layer_shards import LayerShards, RowRanges
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.errors import ConfigError
from tests.adapters.model.joint_group import Group
from tests.adapters.model.joint_model import HEAD_DIM, HEADS, HIDDEN


@pytest.fixture
def workers():
    return Group((1, 2, 4), page=1).workers


def test_ranges_of_rows_are_one_product_each_in_order():
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(rows, HIDDEN, generator=generator) for rows in (8, 4, 4)]
    biases = [torch.randn(len(rows), generator=generator) for rows in weights]
    x = torch.randn(3, HIDDEN, generator=generator)
    whole = F.linear(x, torch.cat(weights), torch.cat(biases))
    torch.testing.assert_close(RowRanges(weights, biases).apply(None, x), whole)
    plain = RowRanges(weights, [None] * 3).apply(None, x)
    torch.testing.assert_close(plain, F.linear(x, torch.cat(weights)))


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_the_parts_of_an_instance_are_all_heads_once(workers, degree):
    """In the order of shards, the query heads of the workers are those of the whole matrix."""
    x = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(2))
    whole = F.linear(x, workers[0].layers[0].qkv.weight.data)
    parts = {}
    for worker in workers[:degree]:
        shards = worker.layers[0]
        shards.switch(degree)
        qkv = shards.qkv.quant_method.apply(shards.qkv, x)
        shard = shards.chain.shard(degree, worker.index)
        sizes = [shards.attention.q_size, *2 * [shards.attention.kv_size]]
        parts[shard] = qkv.split(sizes, dim=-1)
    for kind, expected in enumerate(whole.chunk(3, dim=-1)):
        found = torch.cat([parts[shard][kind] for shard in range(degree)], dim=-1)
        torch.testing.assert_close(found, expected)


def test_a_layer_knows_its_heads_and_owes_a_sum_at_higher_degrees_only(workers):
    shards = workers[1].layers[2]
    home = [linear.tp_group for linear in shards.linears]
    for degree in (4, 2, 1):
        shards.switch(degree)
        attention, radix = shards.attention, shards.radix
        heads = HEADS // degree
        assert (attention.num_heads, attention.num_kv_heads) == (heads, heads)
        assert (attention.q_size, attention.kv_size) == (heads * HEAD_DIM,) * 2
        assert {radix.tp_q_head_num, radix.tp_k_head_num, radix.tp_v_head_num} == {heads}
        assert shards.o.reduce_results == (degree > 1)
        groups = [linear.tp_group for linear in shards.linears]
        assert groups == (home if degree == 1 else [shards.groups[degree]] * 4)


def test_no_weight_of_attention_is_there_twice(workers):
    shards = workers[2].layers[0]
    full_qkv, full_o = shards.qkv.weight.data, shards.o.weight.data
    ends = [(full.data_ptr(), full.data_ptr() + full.nbytes) for full in (full_qkv, full_o)]
    shards.switch(4)
    assert shards.qkv.weight.data.data_ptr() == full_qkv.data_ptr()
    assert ends[1][0] <= shards.o.weight.data.data_ptr() < ends[1][1]
    assert shards.o.weight.data.shape == (HIDDEN, HIDDEN // 4)
    for rows, _ in shards.qkv.quant_method._parts:
        assert ends[0][0] <= rows.data_ptr() < ends[0][1]
    shards.switch(1)
    assert torch.equal(shards.o.weight.data, full_o)


def test_upstream_s_order_is_restored_and_taken_at_degree_one_alone(workers):
    shards = workers[0].layers[1]
    before = shards.feed_forward[0].gate_up.weight.data.clone()
    shards.restore_upstream_order()
    assert not torch.equal(shards.feed_forward[0].gate_up.weight.data, before)
    shards.adopt_weights()
    assert torch.equal(shards.feed_forward[0].gate_up.weight.data, before)
    shards.switch(2)
    for act in (shards.restore_upstream_order, shards.adopt_weights):
        with pytest.raises(AssertionError):
            act()


def test_models_of_another_shape_are_refused_by_what_is_missing(workers):
    layer = workers[0].model.model.layers[0]
    with pytest.raises(ConfigError, match="--tp-size 8 does not divide the model's 4 attention"):
        LayerShards(layer, 0, DegreeChain((1, 8)), 0, groups={}, store=None)
    with pytest.raises(ConfigError, match="Linear has 0 modules of a kind"):
        LayerShards(nn.Linear(2, 2), 0, DegreeChain((1, 2)), 0, groups={}, store=None)
    twice = nn.Sequential(layer, workers[1].model.model.layers[0])
    with pytest.raises(ConfigError, match="Sequential has 2 modules"):
        LayerShards(twice, 0, DegreeChain((1, 2)), 0, groups={}, store=None)
