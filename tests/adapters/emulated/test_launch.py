import json
from types import SimpleNamespace

import pytest

from amoeba_sglang.adapters.emulated.launch import (
    heads_of,
    pretend,
    read_emulation,
    refuse_emulated,
)
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.flags import make_parser

NAME = "h100-96-32b-tp-loss"


def read(*flags):
    return read_emulation(make_parser().parse_args(list(flags)))


def server_args(**changes):
    return SimpleNamespace(
        **{
            "max_total_tokens": None,
            "context_length": None,
            "page_size": None,
            "json_model_override_args": "{}",
            "max_running_requests": None,
            **changes,
        }
    )


def test_without_the_flag_nothing_is_emulated():
    assert read() is None


def test_a_device_file_and_a_dilation_make_an_emulation():
    emulation = read("--amoeba-emulate", NAME, "--amoeba-emulate-dilation", "12.5")
    assert (emulation.device.name, emulation.dilation) == (NAME, 12.5)
    assert "EMULATED Qwen2.5-32B" in emulation.sentence and "12.5 real ones" in emulation.sentence
    assert emulation.describe()["device_file"] == NAME


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--amoeba-emulate", NAME], "--amoeba-emulate-dilation"),
        (["--amoeba-emulate-dilation", "3"], "--amoeba-emulate-dilation: only"),
        (["--amoeba-emulate", NAME, "--amoeba-emulate-dilation", "0.5"], "0.5: not from 1 to 50"),
        (["--amoeba-emulate", NAME, "--amoeba-emulate-dilation", "nan"], "nan: not from 1 to 50"),
        (["--amoeba-emulate", "x", "--amoeba-emulate-dilation", "3"], "--amoeba-emulate: device x"),
    ],
)
def test_bad_flags_are_refused_by_name(flags, message):
    with pytest.raises(ConfigError, match=message):
        read(*flags)


def test_the_server_becomes_a_stub_with_the_context_of_the_device_s_model():
    device = read("--amoeba-emulate", NAME, "--amoeba-emulate-dilation", "3").device
    args = server_args(json_model_override_args='{"rope_theta": 5}')
    pretend(args, device)
    override = json.loads(args.json_model_override_args)
    assert override["num_hidden_layers"] == 1 and override["rope_theta"] == 5
    assert override["max_position_embeddings"] == 131072
    assert args.load_format == "dummy" and args.max_running_requests == 256
    assert args.served_model_name == f"EMULATED Qwen2.5-32B on {NAME}"
    heads = heads_of(device)
    assert (heads.attention_heads, heads.kv_heads, heads.layers) == (40, 8, 64)
    assert heads.mlp_elements == 3 * 5120 * 27648


def test_what_the_device_decides_cannot_be_asked_for():
    device = read("--amoeba-emulate", NAME, "--amoeba-emulate-dilation", "3").device
    with pytest.raises(ConfigError, match="--max-total-tokens"):
        pretend(server_args(max_total_tokens=4096), device)
    with pytest.raises(ConfigError, match="--page-size 16"):
        pretend(server_args(page_size=16), device)


@pytest.mark.parametrize("field", ["json_schema", "regex", "ebnf", "structural_tag"])
def test_grammars_are_refused(field):
    request = SimpleNamespace(return_logprob=False, sampling_params={field: "x"})
    assert refuse_emulated(request).startswith(field)
    assert refuse_emulated(SimpleNamespace(return_logprob=True, sampling_params={}))
    assert refuse_emulated(SimpleNamespace(return_logprob=False, sampling_params={})) is None
