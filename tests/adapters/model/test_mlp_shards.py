"""An MLP cut into shards gives the whole product when the shards' outputs are summed."""

import pytest
import torch
import torch.nn.functional as F
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod
from torch import nn

from amoeba_sglang.adapters.model.feed_forward import elastic_matrices, shard_feed_forward
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.memory.host import HostMemory
from amoeba_sglang.planes.pages.weight_store import WeightStore

CHAINS = [DegreeChain(degrees) for degrees in [(1, 2, 4), (1, 4), (1, 2, 6)]]
HIDDEN, INTERMEDIATE = 20, 48


class Linear(nn.Linear):
    """As upstream's: the method computes, whatever the form of the weights."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.quant_method = UnquantizedLinearMethod()

    def forward(self, x):
        return self.quant_method.apply(self, x, self.bias)


class SiluAndMul(nn.Module):
    """Upstream's activation: the first half of the columns gates the second."""

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up


class Layer(nn.Module):
    """As a decoder layer: an MLP with upstream's names, and something beside it."""

    def __init__(self, seed, bias=False):
        super().__init__()
        torch.manual_seed(seed)
        self.norm = nn.LayerNorm(HIDDEN)
        self.mlp = nn.Module()
        self.mlp.gate_up_proj = Linear(HIDDEN, 2 * INTERMEDIATE, bias=bias)
        self.mlp.down_proj = Linear(INTERMEDIATE, HIDDEN, bias=False)
        self.mlp.act_fn = SiluAndMul()

    @torch.no_grad()
    def forward(self, x):
        mlp = self.mlp
        return mlp.down_proj(mlp.act_fn(mlp.gate_up_proj(x)))


def make_worker(chain, index):
    """The layers of one worker and their shards."""
    layers = [Layer(seed=number) for number in range(2)]
    pages = WeightPages(chain, 4096, elastic_matrices(layers, chain.finest))
    store = WeightStore(HostMemory(4096), pages, index)
    shards = [
        shard_feed_forward(layer, pages.of_layer(number), chain, index, store)[0]
        for number, layer in enumerate(layers)
    ]
    return layers, shards


def tokens(count=5):
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_the_shards_of_every_instance_sum_to_the_whole_product(chain):
    workers = [make_worker(chain, index) for index in range(chain.finest)]
    for number in range(2):
        whole = Layer(seed=number)(tokens())
        for degree in (*chain.degrees, 1):
            for _, shards in workers:
                shards[number].switch(degree)
            outputs = [layers[number](tokens()) for layers, _ in workers]
            for first in range(0, chain.finest, degree):
                total = sum(outputs[first : first + degree])
                torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-5)
            # No worker of an instance has more than its part of the product.
            assert degree == 1 or not torch.allclose(outputs[0], whole, atol=1e-3)


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_a_shard_is_a_view_of_the_range_that_its_worker_keeps(chain):
    """What lies outside may be unmapped at any moment."""
    for index in range(chain.finest):
        _, shards = make_worker(chain, index)
        start = shards[0].gate_up.weight.data_ptr()
        matrices = elastic_matrices([Layer(seed=0), Layer(seed=1)], chain.finest)
        pages = WeightPages(chain, 4096, matrices)
        for degree in chain.degrees:
            shard = chain.shard(degree, index)
            for number, part in enumerate(shards):
                part.switch(degree)
                for matrix, linear in enumerate((part.gate_up, part.down)):
                    weight = linear.weight.data
                    first, stop = pages.shard_range(2 * number + matrix, degree, shard)
                    # Down is a transposed view, so the ends are looked for in the storage.
                    span = 1 + sum(
                        (size - 1) * step
                        for size, step in zip(weight.shape, weight.stride(), strict=True)
                    )
                    assert weight.data_ptr() - start == first
                    assert span * weight.itemsize == stop - first


def test_upstreams_order_comes_back_bit_for_bit_and_new_weights_are_adopted():
    chain = CHAINS[0]
    layers, (shards, _) = make_worker(chain, 1)
    mlp, original = layers[0].mlp, Layer(seed=0).mlp
    shards.switch(2)
    shards.switch(1)
    shards.restore_upstream_order()
    assert torch.equal(mlp.gate_up_proj.weight, original.gate_up_proj.weight)
    assert torch.equal(mlp.down_proj.weight, original.down_proj.weight)
    assert mlp.down_proj.weight.is_contiguous()
    new = Layer(seed=77)
    mlp.gate_up_proj.weight.data.copy_(new.mlp.gate_up_proj.weight.data)
    mlp.down_proj.weight.data.copy_(new.mlp.down_proj.weight.data)
    shards.adopt_weights()
    torch.testing.assert_close(layers[0](tokens()), new(tokens()), rtol=1e-5, atol=1e-5)
    shards.restore_upstream_order()
    assert torch.equal(mlp.gate_up_proj.weight, new.mlp.gate_up_proj.weight)
    assert torch.equal(mlp.down_proj.weight, new.mlp.down_proj.weight)


def shards_of(layer, chain=CHAINS[0]):
    pages = WeightPages(chain, 4096, elastic_matrices([layer], chain.finest))
    store = WeightStore(HostMemory(4096), pages, 0)
    return shard_feed_forward(layer, pages.of_layer(0), chain, 0, store)


def test_models_of_another_shape_are_refused():
    with pytest.raises(ConfigError, match="has 0 MLPs .* 0 mixtures"):
        elastic_matrices([nn.Linear(2, 2)], 1)
    with pytest.raises(ConfigError, match="has 2 MLPs"):
        elastic_matrices([nn.Sequential(Layer(0), Layer(1))], 1)
    with pytest.raises(ConfigError, match="bias in gate_up_proj"):
        shards_of(Layer(0, bias=True))
    with pytest.raises(ConfigError, match=r"--tp-size 5 does not divide the model's 48 MLP"):
        shards_of(Layer(0), DegreeChain((1, 5)))
