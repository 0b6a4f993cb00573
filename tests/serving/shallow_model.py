"""The bundled model cut down to its first layers, for runs that count events."""

import json
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from tests.serving.tiny_models import TOKENIZER_FILES


def make_shallow(out_dir: str | Path, layers: int, *, source_dir: str | Path) -> Path:
    """The first `layers` layers of another checkpoint: what a layer computes and what its weights
    and KV take are the same, and a step takes a fraction of the time.
    """
    out, source = Path(out_dir), Path(source_dir)
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text()) | {"num_hidden_layers": layers}
    (out / "config.json").write_text(json.dumps(config, indent=1))
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        shutil.copy(source / name, out / name)
    with safe_open(source / "model.safetensors", "pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys() if _layer(name) < layers}
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    return out


def _layer(tensor: str) -> int:
    """Number of the layer that a tensor belongs to; -1 for embeddings and the last norm."""
    parts = tensor.split(".")
    return int(parts[parts.index("layers") + 1]) if "layers" in parts else -1
