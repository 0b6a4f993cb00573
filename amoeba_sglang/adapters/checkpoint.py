"""What the files of a checkpoint hold, by their headers: names, and no weights."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from amoeba_sglang.errors import ConfigError

_EXPERT = re.compile(r"\blayers\.(\d+)\..*\bexperts\.(\d+)\.")


def require_experts(model: str, layers: int, experts: int) -> None:
    """ConfigError unless every layer of a checkpoint has so many experts.

    SGLang would serve with whatever lay in the memory of one that is missing. Nothing is said of a
    checkpoint in another format than safetensors, or whose experts are not stored one by one.
    """
    found: dict[int, set[int]] = defaultdict(set)
    for name in _names(Path(model)):
        match = _EXPERT.search(name)
        if match is not None:
            found[int(match[1])].add(int(match[2]))
    for layer in range(layers) if found else ():
        if found[layer] != set(range(experts)):
            raise ConfigError(
                f"--model-path {model}: its files have {len(found[layer])} experts in layer "
                f"{layer}, its config.json says {experts}; one of them is of another model"
            )


def _names(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as content:
                yield from content.keys()
        except SafetensorError as error:
            raise ConfigError(
                f"--model-path {folder}: {file.name} cannot be read: {error}; load it again"
            ) from error
