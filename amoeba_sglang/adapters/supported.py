"""Flags and models that Amoeba does not serve, refused by name."""

from collections.abc import Mapping
from typing import Any

from amoeba_sglang.adapters.checkpoint import require_experts
from amoeba_sglang.config import ModelHeads
from amoeba_sglang.control.layout.decoder import ARCHITECTURES, MIXTURES
from amoeba_sglang.errors import ConfigError

# Fields of SGLang's ServerArgs that must keep their default, by the feature that they ask for.
_FEATURES = {
    "LoRA": ("enable_lora", "lora_paths", "uno_lora_path"),
    "speculative decoding": (
        "speculative_algorithm", "speculative_draft_model_path", "decoupled_spec_role",
    ),
    "a diffusion language model": ("dllm_algorithm",),
    "pipeline parallelism": ("pp_size",),
    "data-parallel attention": ("enable_dp_attention", "attn_dp_size"),
    "context parallelism": ("dcp_size", "attn_cp_size", "enable_prefill_cp"),
    "expert parallelism (a merge spreads experts over its workers)": (
        "ep_size", "moe_dp_size", "moe_dense_tp_size", "dwdp_size", "moe_a2a_backend",
        "elastic_ep_backend", "enable_elastic_expert_backup", "ep_join_mode", "max_ep_size",
    ),
    "redundant or rebalanced experts": (
        "enable_eplb", "ep_num_redundant_experts", "ep_dispatch_algorithm", "init_expert_location",
        "expert_distribution_recorder_mode",
    ),
    "fused shared experts": (
        "enforce_shared_experts_fusion", "enable_shared_experts_attn_tp",
        "shared_experts_tp_size",
    ),
    "another computation of experts": (
        "moe_runner_backend", "enable_fused_moe_sum_all_reduce", "kt_weight_path",
        "enable_paged_experts",
    ),
    "routed experts in answers": ("enable_return_routed_experts",),
    "a hierarchical or external KV cache": (
        "enable_hierarchical_cache", "hicache_storage_backend",
        "enable_unified_cache_external_linker", "enable_unified_memory", "enable_hisparse",
        "enable_lmcache", "enable_flexkv",
    ),
    "another KV cache layout": (
        "enable_page_major_kv_layout", "enable_kv_cache_sharding", "prefill_only_disable_kv_cache",
        "radix_cache_backend",
    ),
    "prefill/decode disaggregation": (
        "disaggregation_mode", "enable_pd_role_switch", "enable_pdmux", "encoder_only",
        "language_only",
    ),
    "quantisation": ("quantization", "modelopt_quant", "quantize_and_serve", "rl_quant_profile"),
    "a KV cache type other than the model's": ("kv_cache_dtype",),
    "several hosts": ("nnodes", "dist_init_addr", "use_ray"),
    "several tokenizer processes": ("tokenizer_worker_num", "detokenizer_worker_num"),
    "a server without SGLang's HTTP front end": ("smg_grpc_mode", "grpc_mode", "grpc_port"),
    "the memory saver": ("enable_memory_saver", "enable_weights_cpu_backup"),
    "weight offloading": ("cpu_offload_gb", "offload_group_size", "weight_cache_mode"),
    "torch.compile": ("enable_torch_compile",),
    "batch overlap": ("enable_two_batch_overlap", "enable_single_batch_overlap"),
    "hidden states in answers": (
        "enable_return_hidden_states", "return_hidden_states_mode",
        "enable_return_aux_hidden_states",
    ),
    "multimodal models": ("enable_multimodal",),
    "embedding models": ("is_embedding",),
    "another model implementation": ("model_impl",),
    "sessions": ("enable_streaming_session", "enable_session_radix_cache"),
    "another load balancing (--amoeba-policy chooses it)": ("load_balance_method",),
}  # fmt: skip


def require_supported_flags(
    values: Mapping[str, Any],
    defaults: Mapping[str, Any],
    unsupported: Mapping[str, tuple[str, ...]],
) -> None:
    """ConfigError that names the flag if any of `values` asks for a feature that is not served.

    values: SGLang's server arguments by field name, as the user gave them; defaults: SGLang's own;
    unsupported: fields by feature that the backend does not serve.
    """
    for feature, fields in (_FEATURES | dict(unsupported)).items():
        for field in fields:
            if values[field] != defaults[field]:
                raise ConfigError(
                    f"{_flag(field)} {values[field]}: Amoeba does not support {feature}"
                )
    page, chunk = values["page_size"], values["chunked_prefill_size"]
    if page and chunk is not None and chunk > 0 and chunk % page:
        raise ConfigError(
            f"--page-size {page}: --chunked-prefill-size {chunk} is not a multiple of it"
        )


def require_supported_model(model: Any) -> ModelHeads:
    """The heads and layers of an SGLang ModelConfig; ConfigError if it cannot be served."""
    path, config = model.model_path, model.hf_config
    name = (config.architectures or ["(none)"])[0]
    served = ARCHITECTURES + MIXTURES
    if name not in served:
        raise ConfigError(
            f"--model-path {path}: its architecture {name} is not one of those that Amoeba "
            f"serves: {', '.join(served)}"
        )
    if model.quantization is not None or getattr(config, "quantization_config", None):
        raise ConfigError(f"--model-path {path}: Amoeba does not support quantised checkpoints")
    if model.is_hybrid_swa:
        raise ConfigError(f"--model-path {path}: Amoeba does not support sliding-window attention")
    experts, columns = _count_columns(model.hf_text_config)
    if experts:
        _require_sparse_layers(path, model.hf_text_config)
        require_experts(path, model.num_hidden_layers, experts)
    return ModelHeads(
        attention_heads=model.num_attention_heads,
        kv_heads=model.get_total_num_kv_heads(),
        layers=model.num_hidden_layers,
        mlp_elements=3 * model.hf_text_config.hidden_size * columns,
        kv_bytes=2 * model.get_total_num_kv_heads() * model.head_dim * model.dtype.itemsize,
        experts=experts,
    )


def _require_sparse_layers(path: str, config: Any) -> None:
    """SGLang builds each layer of a mixture with experts, whatever these fields say."""
    fields: dict[str, Any] = {"mlp_only_layers": [], "decoder_sparse_step": 1}
    for field, usual in fields.items():
        value = getattr(config, field, None) or usual
        if value != usual:
            raise ConfigError(
                f"--model-path {path}: {field} {value}: mixtures with dense layers are not served; "
                "take one whose layers all have experts"
            )


def _count_columns(config: Any) -> tuple[int, int]:
    """Experts of a layer, and MLP columns of the layer that has most: of all its experts and the
    shared one, or of its MLP."""
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", 0)
    dense = config.intermediate_size
    if not experts:
        return 0, dense
    of_experts = experts * getattr(config, "moe_intermediate_size", dense)
    shared = getattr(config, "shared_expert_intermediate_size", 0)
    return experts, max(dense, of_experts + shared)


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")
