"""The sizes of a dense decoder, from its Hugging Face config.json or by a known name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amoeba_sglang.control.layout.kv_shape import KVShape
from amoeba_sglang.errors import ConfigError

# The layer walker knows the decoder layers of these.
ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)

_KNOWN = Path(__file__).with_name("known_models.json")
# In a config.json that leaves them out, these are untied (every served architecture's default).
_OPTIONAL = {"tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}


@dataclass(frozen=True)
class DenseModel:
    """A dense decoder; counts are of elements, `*_bytes` at the model's and the KV's own type.

    `max_request_tokens`: the longest request, the config's max_position_embeddings. `biases`: bias
    elements of a layer's attention; `head_norms`: whether q and k have a norm of their own.
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_request_tokens: int
    tied: bool
    biases: int
    head_norms: bool
    dtype_bytes: int
    kv_dtype_bytes: int

    def require_degree(self, degree: int) -> None:
        """ConfigError that names the field that `degree` does not divide, if there is one."""
        for field, count in (
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("intermediate_size", self.intermediate),
        ):
            if count % degree:
                raise ConfigError(
                    f"--degrees: {degree} does not divide {field} {count} of {self.name}"
                )

    @property
    def attention_bytes(self) -> int:
        """q, k, v and o projections of all layers, with biases."""
        width = self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (self.hidden * width + self.biases) * self.dtype_bytes

    @property
    def mlp_matrices(self) -> tuple[int, ...]:
        """Bytes of gate_up and down of every layer, in order."""
        down = self.hidden * self.intermediate * self.dtype_bytes
        return (2 * down, down) * self.layers

    @property
    def embedding_bytes(self) -> int:
        """Embedding and output head; once if they are tied."""
        return (1 if self.tied else 2) * self.vocabulary * self.hidden * self.dtype_bytes

    @property
    def norm_bytes(self) -> int:
        """The norms of all layers and the last one."""
        of_layer = 2 * self.hidden + 2 * self.head_dim * self.head_norms
        return (self.layers * of_layer + self.hidden) * self.dtype_bytes

    @property
    def replicated_bytes(self) -> int:
        """What every worker holds in full at every degree: all but the MLP."""
        return self.attention_bytes + self.embedding_bytes + self.norm_bytes

    @property
    def kv_shape(self) -> KVShape:
        return KVShape(self.layers, self.kv_heads, self.head_dim, self.kv_dtype_bytes)

    @property
    def token_bytes(self) -> int:
        """KV of one token, all layers and heads."""
        return self.layers * self.kv_shape.unit_bytes(1)

    @property
    def slot_bytes(self) -> int:
        """K of one token in one layer; V takes as much."""
        return self.kv_shape.unit_bytes(1) // 2


def load_model(source: str, dtype_bytes: int, kv_dtype_bytes: int) -> DenseModel:
    """The model of a config.json, of the directory that holds one, or of a known name.

    Raises ConfigError with the field at fault when a field is missing or not served.
    """
    path = Path(source)
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return _parse(str(path), _read(path), dtype_bytes, kv_dtype_bytes)
    known = _read(_KNOWN)
    for name, fields in known.items():
        if name.lower() == source.lower():
            return _parse(name, fields, dtype_bytes, kv_dtype_bytes)
    raise ConfigError(
        f"--model {source}: no config.json there, and none of the known names {', '.join(known)}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model {path}: cannot be read as JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"--model {path}: is not a JSON object")
    return fields


def _parse(
    name: str, fields: Mapping[str, Any], dtype_bytes: int, kv_dtype_bytes: int
) -> DenseModel:
    named = fields.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else "(none)"
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"{name}: architectures {architecture} is not one of those that Amoeba serves: "
            f"{', '.join(ARCHITECTURES)}"
        )
    if fields.get("quantization_config"):
        raise ConfigError(f"{name}: quantization_config: Amoeba does not serve quantised weights")
    switches = {field: fields.get(field, default) for field, default in _OPTIONAL.items()}
    for field, value in switches.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name}: {field} {value}: must be true or false")
    if switches["mlp_bias"]:
        raise ConfigError(f"{name}: mlp_bias true: Amoeba does not serve MLPs with biases")
    hidden = _count(name, fields, "hidden_size")
    heads = _count(name, fields, "num_attention_heads")
    kv_heads = _count(name, fields, "num_key_value_heads", heads)
    head_dim = _count(name, fields, "head_dim", hidden // heads)
    qkv_biases = head_dim * (heads + 2 * kv_heads)
    if architecture == "Qwen2ForCausalLM":
        biases = qkv_biases
    else:
        biases = (qkv_biases + hidden) * switches["attention_bias"]
    return DenseModel(
        name=name,
        hidden=hidden,
        intermediate=_count(name, fields, "intermediate_size"),
        layers=_count(name, fields, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=_count(name, fields, "vocab_size"),
        max_request_tokens=_count(name, fields, "max_position_embeddings"),
        tied=switches["tie_word_embeddings"],
        biases=biases,
        head_norms=architecture == "Qwen3ForCausalLM",
        dtype_bytes=dtype_bytes,
        kv_dtype_bytes=kv_dtype_bytes,
    )


def _count(name: str, fields: Mapping[str, Any], field: str, default: int | None = None) -> int:
    value = fields.get(field)
    if value is None:
        value = default
    if value is None:
        raise ConfigError(f"{name}: {field} is missing")
    if type(value) is not int or value < 1:
        raise ConfigError(f"{name}: {field} {value}: must be an integer of at least 1")
    return value
