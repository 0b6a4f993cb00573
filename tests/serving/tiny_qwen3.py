"""A random checkpoint small enough for tests, with the tokenizer of another checkpoint.

Usable as --model-path. Weights are float32 and depend on the seed alone.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
LAYERS = 4
_CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
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


def make_tiny_qwen3(out_dir: str | Path, seed: int, *, tokenizer_dir: str | Path) -> Path:
    """Dense Qwen3: norms over each head's queries and keys, no biases."""
    out, tokenizer = Path(out_dir), Path(tokenizer_dir)
    source = json.loads((tokenizer / "config.json").read_text())
    tokens = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    config = _CONFIG | {name: source[name] for name in tokens}
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

    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q_size = head * config["num_attention_heads"]
    kv_size = head * config["num_key_value_heads"]
    weights = {
        "model.embed_tokens.weight": matrix(config["vocab_size"], hidden),
        "model.norm.weight": norm(hidden),
    }
    for index in range(config["num_hidden_layers"]):
        layer = {
            "input_layernorm": norm(hidden),
            "post_attention_layernorm": norm(hidden),
            "self_attn.q_proj": matrix(q_size, hidden),
            "self_attn.k_proj": matrix(kv_size, hidden),
            "self_attn.v_proj": matrix(kv_size, hidden),
            "self_attn.o_proj": matrix(hidden, q_size),
            "mlp.gate_proj": matrix(inner, hidden),
            "mlp.up_proj": matrix(inner, hidden),
            "mlp.down_proj": matrix(hidden, inner),
        }
        layer |= {"self_attn.q_norm": norm(head), "self_attn.k_norm": norm(head)}
        weights |= {f"model.layers.{index}.{name}.weight": w for name, w in layer.items()}
    return weights
