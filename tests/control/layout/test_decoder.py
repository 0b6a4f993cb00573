import json

import pytest

from amoeba_sglang.control.layout.decoder import load_model
from amoeba_sglang.errors import ConfigError

FIELDS = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}


def load(directory, **changes):
    fields = {name: value for name, value in (FIELDS | changes).items() if value is not ...}
    (directory / "config.json").write_text(json.dumps(fields))
    return load_model(str(directory), 2, 1)


@pytest.mark.parametrize(
    "name, billions",
    # The sizes that the model cards give.
    [
        ("Llama-2-13B", 13.02),
        ("Llama-3-8B", 8.03),
        ("Qwen2.5-7B", 7.62),
        ("Qwen2.5-32B", 32.76),
        ("Qwen2.5-72B", 72.71),
        ("Qwen3-32B", 32.76),
        ("Mixtral-8x7B", 46.70),
        ("Qwen2-57B-A14B", 57.41),
        ("Qwen3-30B-A3B", 30.53),
        ("Qwen3-235B-A22B", 235.09),
    ],
)
def test_known_models_have_their_published_size(name, billions):
    model = load_model(name.lower(), 1, 1)
    assert model.name == name
    total = model.replicated_bytes + model.mlp_bytes
    assert total / 1e9 == pytest.approx(billions, abs=0.01)


def test_sizes_of_a_config_file(tmp_path):
    model = load(tmp_path)
    assert model.mlp_layers == ((2 * 64 * 96 * 2, 64 * 96 * 2),) * 3
    assert model.attention_bytes == 3 * 64 * 8 * (8 + 4 + 4 + 8) * 2
    assert model.embedding_bytes == 2 * 100 * 64 * 2
    assert model.norm_bytes == 7 * 64 * 2
    assert (model.token_bytes, model.slot_bytes) == (3 * 2 * 4 * 8, 4 * 8)
    assert load_model(str(tmp_path / "config.json"), 2, 1) == model


def test_options_of_a_config_file(tmp_path):
    plain = load(tmp_path)
    assert load(tmp_path, num_key_value_heads=None).kv_heads == 8
    assert load(tmp_path, head_dim=16).head_dim == 16
    tied = load(tmp_path, tie_word_embeddings=True)
    assert 2 * tied.embedding_bytes == plain.embedding_bytes
    assert load(tmp_path, architectures=["Qwen2ForCausalLM"]).biases == 8 * (8 + 4 + 4)
    assert load(tmp_path, attention_bias=True).biases == 8 * (8 + 4 + 4) + 64
    normed = load(tmp_path, architectures=["Qwen3ForCausalLM"])
    assert normed.norm_bytes - plain.norm_bytes == 3 * 2 * 8 * 2


@pytest.mark.parametrize(
    "field, value, text",
    [
        ("hidden_size", ..., "hidden_size is missing"),
        ("vocab_size", 0, "vocab_size 0: must be an integer of at least 1"),
        ("num_hidden_layers", "3", "num_hidden_layers 3: must be an integer"),
        ("num_attention_heads", True, "num_attention_heads True: must be an integer"),
        ("num_attention_heads", 128, "head_dim 0: must be an integer of at least 1"),
        ("architectures", ["GptOssForCausalLM"], "GptOssForCausalLM is not one of those"),
        ("architectures", {}, "(none) is not one of those"),
        ("quantization_config", {"bits": 4}, "quantization_config"),
        ("mlp_bias", True, "mlp_bias true"),
        ("tie_word_embeddings", "yes", "tie_word_embeddings yes: must be true or false"),
    ],
)
def test_a_field_that_cannot_be_planned_is_named(tmp_path, field, value, text):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, **{field: value})
    assert text in str(caught.value) and "config.json" in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00"])
def test_a_file_that_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match="--model .*config.json"):
        load_model(str(tmp_path), 2, 2)


MIXTURE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "moe_intermediate_size": 24,
    "mlp_only_layers": [0],
}


def test_sizes_of_a_mixture(tmp_path):
    model = load(tmp_path, **MIXTURE)
    dense, experts = 64 * 96 * 2, 8 * 64 * 24 * 2
    assert model.mlp_layers == ((2 * dense, dense), *((2 * experts, experts),) * 2)
    assert model.router_bytes == 2 * 8 * 64 * 2
    with pytest.raises(ConfigError, match="not emulated"):
        model.require_dense()
    renamed = {name: value for name, value in MIXTURE.items() if name != "num_experts"}
    assert load(tmp_path, **renamed, num_local_experts=8) == model
    shared = load(
        tmp_path,
        **MIXTURE | {"architectures": ["Qwen2MoeForCausalLM"], "mlp_only_layers": []},
        shared_expert_intermediate_size=40,
    )
    assert shared.mlp_layers == ((2 * experts, experts, 2 * 64 * 40 * 2, 64 * 40 * 2),) * 3
    assert shared.router_bytes == 3 * (8 + 1) * 64 * 2 and shared.biases == 8 * (8 + 4 + 4)
    every_second = load(tmp_path, **MIXTURE | {"decoder_sparse_step": 2})
    assert every_second.mixture.dense_layers == (0, 2)
    mixtral = load(tmp_path, architectures=["MixtralForCausalLM"], num_local_experts=4)
    assert mixtral.mlp_layers == ((8 * dense, 4 * dense),) * 3


def test_a_degree_must_divide_the_experts_and_what_is_dense_beside_them(tmp_path):
    model = load(tmp_path, **MIXTURE | {"num_experts": 6})
    with pytest.raises(ConfigError, match="4 does not divide experts 6"):
        model.require_degree(4)
    model = load(tmp_path, **MIXTURE, intermediate_size=97)
    with pytest.raises(ConfigError, match="2 does not divide intermediate_size 97"):
        model.require_degree(2)
    load(tmp_path, **MIXTURE | {"mlp_only_layers": []}, intermediate_size=97).require_degree(4)


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"shared_expert_intermediate_size": "wide"}, "intermediate_size wide: must be an integer"),
        ({"num_experts": ...}, "num_experts is missing"),
        ({"architectures": ["MixtralForCausalLM"]}, "num_local_experts is missing"),
    ],
)
def test_a_field_of_a_mixture_that_cannot_be_planned_is_named(tmp_path, changes, text):
    with pytest.raises(ConfigError, match=text):
        load(tmp_path, **MIXTURE | changes)


@pytest.mark.parametrize("layers", [[3], "all", [-1], [[0]]])
def test_dense_layers_of_a_mixture_are_its_own(tmp_path, layers):
    with pytest.raises(ConfigError, match="mlp_only_layers"):
        load(tmp_path, **MIXTURE | {"mlp_only_layers": layers})


def test_a_degree_must_divide_heads_and_mlp(tmp_path):
    model = load(tmp_path)
    model.require_degree(4)
    with pytest.raises(ConfigError, match="8 does not divide num_key_value_heads 4"):
        model.require_degree(8)
    with pytest.raises(ConfigError, match="3 does not divide num_attention_heads 8"):
        model.require_degree(3)
