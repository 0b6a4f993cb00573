import pytest

from amoeba_sglang.adapters.worker.weight_names import layer_of, restored


class Layer:
    def __init__(self):
        self.done = []

    def restore_upstream_order(self):
        self.done.append("restore")

    def adopt_weights(self):
        self.done.append("adopt")


@pytest.fixture
def layers():
    return [Layer() for _ in range(12)]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("model.layers.0.mlp.gate_proj.weight", [0]),
        ("model.layers.11.mlp.down_proj.weight", [11]),
        ("model.layers.12.mlp.down_proj.weight", []),
        ("model.layers." + "9" * 5000 + ".mlp.down_proj.weight", []),
        ("lm_head.weight", []),
        ("", []),
    ],
)
def test_a_name_concerns_its_layer(layers, name, numbers):
    assert layer_of(layers, name) == [layers[number] for number in numbers]


def test_the_order_comes_back_whatever_upstream_does(layers):
    with pytest.raises(KeyError), restored(layers, None):
        assert {tuple(layer.done) for layer in layers} == {("restore",)}
        raise KeyError
    assert {tuple(layer.done) for layer in layers} == {("restore", "adopt")}
