"""Reads device files: JSON with the fields of a DeviceModel and `sources`, where each is from.

`like` names the file beside it whose fields and sources hold unless the file gives its own.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from amoeba_sglang.control.device.device_model import DeviceModel
from amoeba_sglang.control.layout.decoder import load_model
from amoeba_sglang.errors import ConfigError

_FILES = Path(__file__).with_name("files")
_BY_DEGREE = ("all_reduce_latency", "fixed_seconds", "slowdown")


def device_names() -> list[str]:
    """Names of the files that come with the package."""
    return sorted(path.stem for path in _FILES.glob("*.json"))


def load_device(source: str) -> DeviceModel:
    """The device of a JSON file, or of a name in `device_names`; ConfigError names the field."""
    path = Path(source)
    if not path.is_file():
        path = _FILES / f"{source}.json"
    if not path.is_file():
        raise ConfigError(f"device {source}: no such file, and not one of {_join(device_names())}")
    found = _read(path)
    _check_names(path, found)
    model = load_model(found.pop("model"), found.pop("dtype_bytes"), found.pop("kv_dtype_bytes"))
    model.require_dense()
    del found["sources"]
    for name, value in found.items():
        if name in _BY_DEGREE:
            _check_numbers(path, name, value.values())
            found[name] = {int(degree): number for degree, number in value.items()}
        elif name not in ("device", "cost_model"):
            _check_numbers(path, name, [value])
    return DeviceModel(name=path.stem, model=model, **found)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"device {path}: cannot be read as JSON: {error}") from error
    base = found.pop("like", None)
    if base is None:
        return found
    like = _read(path.with_name(f"{base}.json"))
    return {**like, **found, "sources": {**like["sources"], **found.get("sources", {})}}


def _check_names(path: Path, found: dict[str, Any]) -> None:
    """Every field is there, is known, and has a source."""
    wanted = {field.name for field in fields(DeviceModel)} - {"name"}
    wanted |= {"dtype_bytes", "kv_dtype_bytes", "sources"}
    if missing := wanted - found.keys():
        raise ConfigError(f"device {path}: fields {_join(sorted(missing))} are missing")
    if unknown := found.keys() - wanted:
        raise ConfigError(f"device {path}: fields {_join(sorted(unknown))} are not known")
    if silent := wanted - found["sources"].keys() - {"device", "cost_model", "sources"}:
        raise ConfigError(f"device {path}: sources of {_join(sorted(silent))} are missing")


def _check_numbers(path: Path, name: str, values: Any) -> None:
    for value in values:
        if type(value) not in (int, float) or value < 0:
            raise ConfigError(f"device {path}: {name} {value}: must be a number of at least 0")


def _join(names: list[str]) -> str:
    return ", ".join(names)
