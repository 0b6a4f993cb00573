import pytest
import torch
from safetensors.torch import save_file

from amoeba_sglang.adapters.checkpoint import require_experts
from amoeba_sglang.errors import ConfigError


def write(folder, *experts):
    """A layer each, of so many experts, in a file each."""
    for layer, count in enumerate(experts):
        names = [f"model.layers.{layer}.mlp.experts.{n}.up_proj.weight" for n in range(count)]
        names += [f"model.layers.{layer}.mlp.gate.weight"]
        save_file({name: torch.zeros(1) for name in names}, folder / f"{layer}.safetensors")
    return str(folder)


def test_as_many_experts_as_the_config_says(tmp_path):
    require_experts(write(tmp_path, 4, 4), layers=2, experts=4)


@pytest.mark.parametrize(
    ("there", "layer", "count"), [((4, 3), 1, 3), ((4,), 1, 0), ((8, 4), 0, 8)]
)
def test_others_are_refused_by_layer(tmp_path, there, layer, count):
    with pytest.raises(ConfigError, match=f"have {count} experts in layer {layer}, .* says 4; "):
        require_experts(write(tmp_path, *there), layers=2, experts=4)


def test_nothing_is_said_of_files_that_name_no_expert(tmp_path):
    require_experts(str(tmp_path), layers=2, experts=4)
    save_file({"model.norm.weight": torch.zeros(1)}, tmp_path / "all.safetensors")
    require_experts(str(tmp_path), layers=2, experts=4)


def test_a_torn_file_is_named(tmp_path):
    (tmp_path / "one.safetensors").write_bytes(b"\x08")
    with pytest.raises(ConfigError, match=r"one\.safetensors cannot be read: .*; load it again"):
        require_experts(str(tmp_path), layers=2, experts=4)
