from types import SimpleNamespace

import pytest

from amoeba_sglang.adapters import supported
from amoeba_sglang.adapters.cpu.backend import CpuBackend
from amoeba_sglang.errors import ConfigError

CPU = CpuBackend.unsupported
FEATURES = supported._FEATURES | CPU
DEFAULTS = {field: None for fields in FEATURES.values() for field in fields}
DEFAULTS |= {"page_size": None, "chunked_prefill_size": None, "nnodes": 1, "kv_cache_dtype": "auto"}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("enable_lora", True, "--enable-lora True: Amoeba does not support LoRA"),
        ("nnodes", 2, "--nnodes 2: Amoeba does not support several hosts"),
        ("kv_cache_dtype", "fp8_e5m2", "--kv-cache-dtype fp8_e5m2"),
        ("enable_streaming_session", True, "--enable-streaming-session True: Amoeba does not"),
        ("enable_session_radix_cache", True, "Amoeba does not support sessions"),
        ("load_balance_method", "round_robin", "--amoeba-policy"),
    ],
)
def test_refused_flags(field, value, says):
    supported.require_supported_flags(DEFAULTS, DEFAULTS, CPU)
    with pytest.raises(ConfigError) as error:
        supported.require_supported_flags({**DEFAULTS, field: value}, DEFAULTS, CPU)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("page", [None, 1, 16])
def test_pages_of_any_size_are_served_if_chunks_are_made_of_them(page):
    values = {**DEFAULTS, "page_size": page, "chunked_prefill_size": 512}
    supported.require_supported_flags(values, DEFAULTS, CPU)
    with pytest.raises(ConfigError, match="--page-size 48: --chunked-prefill-size 512 is not a"):
        supported.require_supported_flags({**values, "page_size": 48}, DEFAULTS, CPU)


def model(**changes):
    config = SimpleNamespace(architectures=["LlamaForCausalLM"], **changes.pop("config", {}))
    facts = {
        "model_path": "some/model",
        "hf_config": config,
        "hf_text_config": SimpleNamespace(hidden_size=8, intermediate_size=20),
        "quantization": None,
        "is_hybrid_swa": False,
        "num_attention_heads": 12,
        "num_hidden_layers": 30,
        "head_dim": 64,
        "dtype": SimpleNamespace(itemsize=2),
        "get_total_num_kv_heads": lambda: 4,
    }
    return SimpleNamespace(**{**facts, **changes})


def test_a_served_model():
    heads = supported.require_supported_model(model())
    assert heads == supported.ModelHeads(
        12, 4, 30, mlp_elements=3 * 8 * 20, kv_bytes=2 * 4 * 64 * 2
    )


def mixture(**fields):
    config = {
        "hidden_size": 8,
        "intermediate_size": 20,
        "num_experts": 6,
        "moe_intermediate_size": 5,
        **fields,
    }
    return model(
        hf_config=SimpleNamespace(architectures=["Qwen3MoeForCausalLM"]),
        hf_text_config=SimpleNamespace(**config),
    )


def test_a_mixture_has_experts_and_the_columns_of_all_of_them():
    found = [
        supported.require_supported_model(mixture(**fields))
        for fields in (
            {"mlp_only_layers": [], "decoder_sparse_step": 1},
            {"shared_expert_intermediate_size": 7},
            {"num_experts": None, "num_local_experts": 3},
        )
    ]
    columns = [6 * 5, 6 * 5 + 7, 20]
    assert [heads.mlp_elements for heads in found] == [3 * 8 * count for count in columns]
    assert [heads.experts for heads in found] == [6, 6, 3]


@pytest.mark.parametrize("fields", [{"mlp_only_layers": [0]}, {"decoder_sparse_step": 2}], ids=str)
def test_mixtures_with_dense_layers_are_refused(fields):
    [(name, value)] = fields.items()
    with pytest.raises(ConfigError) as error:
        supported.require_supported_model(mixture(**fields))
    assert f"{name} {value}: mixtures with dense layers" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"hf_config": SimpleNamespace(architectures=["DeepseekV3ForCausalLM"])},
            "its architecture DeepseekV3ForCausalLM is not one of those",
        ),
        ({"hf_config": SimpleNamespace(architectures=None)}, "(none)"),
        ({"quantization": "fp8"}, "quantised"),
        ({"config": {"quantization_config": {"quant_method": "awq"}}}, "quantised"),
        ({"is_hybrid_swa": True}, "sliding-window"),
    ],
)
def test_refused_models(changes, says):
    with pytest.raises(ConfigError) as error:
        supported.require_supported_model(model(**changes))
    assert says in str(error.value)
    assert "some/model" in str(error.value)
