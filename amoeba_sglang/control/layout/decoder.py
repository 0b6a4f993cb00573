"""The sizes of a decoder, from its Hugging Face config.json or by a known name."""

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
MIXTURES = ("MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM")

_KNOWN = Path(__file__).with_name("known_models.json")
# In a config.json that leaves them out, these are untied (every served architecture's default).
_OPTIONAL = {"tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}


@dataclass(frozen=True)
class Mixture:
    """The experts of every layer but those in `dense_layers`. `intermediate`: columns of one;
    `shared`: columns of the expert that all tokens choose, 0 without one."""

    experts: int
    intermediate: int
    shared: int = 0
    dense_layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Decoder:
    """A decoder; counts are of elements, `*_bytes` at the model's and the KV's own type.

    `intermediate`: columns of a dense layer's MLP. `max_request_tokens`: the longest request, the
    config's max_position_embeddings. `biases`: bias elements of a layer's attention; `head_norms`:
    whether q and k have a norm of their own.
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
    mixture: Mixture | None = None

    def require_degree(self, degree: int) -> None:
        """ConfigError that names the field that `degree` does not divide, if there is one."""
        counts = {"num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads}
        if self.mixture is None or self.mixture.dense_layers:
            counts["intermediate_size"] = self.intermediate
        if self.mixture is not None:
            counts["experts"] = self.mixture.experts
            counts["shared_expert_intermediate_size"] = self.mixture.shared
        for field, count in counts.items():
            if count % degree:
                raise ConfigError(
                    f"--degrees: {degree} does not divide {field} {count} of {self.name}"
                )

    def require_dense(self) -> None:
        """ConfigError for a mixture, of whose steps nobody has measured what they cost."""
        if self.mixture is not None:
            raise ConfigError(
                f"{self.name}: mixtures of experts are served and planned, but not emulated; take "
                "a dense model"
            )

    @property
    def attention_bytes(self) -> int:
        """q, k, v and o projections of all layers, with biases."""
        width = self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (self.hidden * width + self.biases) * self.dtype_bytes

    @property
    def mlp_layers(self) -> tuple[tuple[int, ...], ...]:
        """Bytes of gate_up and down by layer: of an MLP, or of all of its experts together and then
        of the shared one."""
        return tuple(
            tuple(
                times * self.hidden * columns * self.dtype_bytes
                for columns in self._mlp_columns(layer)
                for times in (2, 1)
            )
            for layer in range(self.layers)
        )

    @property
    def mlp_bytes(self) -> int:
        return sum(map(sum, self.mlp_layers))

    def _mlp_columns(self, layer: int) -> tuple[int, ...]:
        mixture = self.mixture
        if mixture is None or layer in mixture.dense_layers:
            return (self.intermediate,)
        experts = mixture.experts * mixture.intermediate
        return (experts, mixture.shared) if mixture.shared else (experts,)

    @property
    def router_bytes(self) -> int:
        """Rows that choose experts, and the gates of shared ones."""
        if self.mixture is None:
            return 0
        rows = self.mixture.experts + (self.mixture.shared > 0)
        sparse = self.layers - len(self.mixture.dense_layers)
        return sparse * rows * self.hidden * self.dtype_bytes

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
        return self.attention_bytes + self.embedding_bytes + self.norm_bytes + self.router_bytes

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


def load_model(source: str, dtype_bytes: int, kv_dtype_bytes: int) -> Decoder:
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


def _parse(name: str, fields: Mapping[str, Any], dtype_bytes: int, kv_dtype_bytes: int) -> Decoder:
    named = fields.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else "(none)"
    if architecture not in ARCHITECTURES + MIXTURES:
        raise ConfigError(
            f"{name}: architectures {architecture} is not one of those that Amoeba serves: "
            f"{', '.join(ARCHITECTURES + MIXTURES)}"
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
    if architecture.startswith("Qwen2"):
        biases = qkv_biases
    else:
        biases = (qkv_biases + hidden) * switches["attention_bias"]
    return Decoder(
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
        head_norms=architecture.startswith("Qwen3"),
        dtype_bytes=dtype_bytes,
        kv_dtype_bytes=kv_dtype_bytes,
        mixture=_parse_mixture(name, architecture, fields) if architecture in MIXTURES else None,
    )


def _parse_mixture(name: str, architecture: str, fields: Mapping[str, Any]) -> Mixture:
    if architecture == "MixtralForCausalLM":
        return Mixture(
            experts=_count(name, fields, "num_local_experts"),
            intermediate=_count(name, fields, "intermediate_size"),
        )
    every = _count(name, fields, "decoder_sparse_step", 1)
    named = fields.get("mlp_only_layers") or []
    layers = range(_count(name, fields, "num_hidden_layers"))
    if not isinstance(named, list) or not all(layer in layers for layer in named):
        raise ConfigError(f"{name}: mlp_only_layers {named}: must be a list of layers")
    shared = "shared_expert_intermediate_size"
    return Mixture(
        experts=_count(name, fields, "num_experts", fields.get("num_local_experts")),
        intermediate=_count(name, fields, "moe_intermediate_size"),
        shared=_count(name, fields, shared) if fields.get(shared) else 0,
        dense_layers=tuple(n for n in layers if n in named or (n + 1) % every),
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
