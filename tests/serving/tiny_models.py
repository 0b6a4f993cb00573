"""Random checkpoints small enough for tests, with the tokenizer of another checkpoint.

Usable as --model-path. Weights are float32 and depend on the seed alone.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
LAYERS = 4
_COMMON = {
    "rope_theta": 1e6,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": True,
    "dtype": "float32",
    "torch_dtype": "float32",
}
_MIXTURE = {
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 128,
    "tie_word_embeddings": False,
}
_FAMILIES: dict[str, dict[str, Any]] = {
    # Norms over each head's queries and keys, no biases.
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
    "qwen3_moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "norm_topk_prob": True,
        **_MIXTURE,
    },
    # Biases of q, k and v, and a shared expert with a gate.
    "qwen2_moe": {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "norm_topk_prob": False,
        "shared_expert_intermediate_size": 192,
        "head_dim": 32,
        "use_sliding_window": False,
        **_MIXTURE,
    },
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 128,
        "head_dim": 32,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
}
MIXTURES = ("qwen3_moe", "qwen2_moe", "mixtral")

Matrix = Callable[[int, int], torch.Tensor]


def make_tiny(out_dir: str | Path, family: str, seed: int, *, tokenizer_dir: str | Path) -> Path:
    """A model of a family; its directory."""
    out, tokenizer = Path(out_dir), Path(tokenizer_dir)
    source = json.loads((tokenizer / "config.json").read_text())
    tokens = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    config = _COMMON | _FAMILIES[family] | {name: source[name] for name in tokens}
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=1))
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer / name, out / name)
    weights = _random_weights(config, seed)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def _random_weights(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) / columns**0.5

    def norm(size: int) -> torch.Tensor:
        return 1 + 0.1 * torch.randn(size, generator=generator)

    hidden, head = config["hidden_size"], config["head_dim"]
    q_size = head * config["num_attention_heads"]
    kv_size = head * config["num_key_value_heads"]
    weights = {
        "model.embed_tokens.weight": matrix(config["vocab_size"], hidden),
        "model.norm.weight": norm(hidden),
    }
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(config["vocab_size"], hidden)
    for index in range(config["num_hidden_layers"]):
        layer = {
            "input_layernorm.weight": norm(hidden),
            "post_attention_layernorm.weight": norm(hidden),
            "self_attn.q_proj.weight": matrix(q_size, hidden),
            "self_attn.k_proj.weight": matrix(kv_size, hidden),
            "self_attn.v_proj.weight": matrix(kv_size, hidden),
            "self_attn.o_proj.weight": matrix(hidden, q_size),
        }
        if config["model_type"].startswith("qwen3"):
            layer |= {f"self_attn.{name}_norm.weight": norm(head) for name in "qk"}
        if config["model_type"].startswith("qwen2"):
            sizes = {"q": q_size, "k": kv_size, "v": kv_size}
            layer |= {f"self_attn.{n}_proj.bias": norm(size) - 1 for n, size in sizes.items()}
        layer |= _feed_forward(config, matrix)
        weights |= {f"model.layers.{index}.{name}": weight for name, weight in layer.items()}
    return weights


def _feed_forward(config: dict[str, Any], matrix: Matrix) -> dict[str, torch.Tensor]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    names = ("gate_proj", "up_proj", "down_proj")
    experts = config.get("num_experts") or config.get("num_local_experts", 0)
    if not experts:
        return _mlp("mlp", names, inner, hidden, matrix)
    block = "mlp"
    if config["model_type"] == "mixtral":
        block, names = "block_sparse_moe", ("w1", "w3", "w2")
    # Far enough apart for rounding to choose no other expert.
    found = {f"{block}.gate.weight": 4 * matrix(experts, hidden)}
    for expert in range(experts):
        columns = config.get("moe_intermediate_size", inner)
        found |= _mlp(f"{block}.experts.{expert}", names, columns, hidden, matrix)
    shared = config.get("shared_expert_intermediate_size")
    if shared:
        found |= _mlp("mlp.shared_expert", names, shared, hidden, matrix)
        found["mlp.shared_expert_gate.weight"] = matrix(1, hidden)
    return found


def _mlp(
    prefix: str, names: tuple[str, ...], columns: int, hidden: int, matrix: Matrix
) -> dict[str, torch.Tensor]:
    gate, up, down = (f"{prefix}.{name}.weight" for name in names)
    return {
        gate: matrix(columns, hidden),
        up: matrix(columns, hidden),
        down: 2 * matrix(hidden, columns),
    }
