import json
from types import SimpleNamespace

import pytest

from amoeba_sglang.adapters.choice import choose_backend
from amoeba_sglang.adapters.emulated.backend import read_emulation
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.flags import make_parser

NAME = "h100-96-32b-tp-loss"


def read(*flags):
    return read_emulation(make_parser().parse_args(list(flags)))


@pytest.fixture
def backend():
    return choose_backend("cpu", read("--amoeba-emulate", NAME, "--amoeba-emulate-dilation", "3"))


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
        (["--amoeba-emulate", NAME], f"{NAME}: it needs --amoeba-emulate-dilation X"),
        (["--amoeba-emulate-dilation", "3"], "--amoeba-emulate-dilation 3: it needs"),
        (["--amoeba-emulate", NAME, "--amoeba-emulate-dilation", "0.5"], "0.5: not from 1 to 50"),
        (["--amoeba-emulate", NAME, "--amoeba-emulate-dilation", "nan"], "nan: not from 1 to 50"),
        (["--amoeba-emulate", "x", "--amoeba-emulate-dilation", "3"], "--amoeba-emulate: device x"),
    ],
)
def test_bad_flags_are_refused_by_name(flags, message):
    with pytest.raises(ConfigError, match=message):
        read(*flags)


def test_the_server_becomes_a_stub_with_the_context_of_the_device_s_model(backend):
    args = server_args(json_model_override_args='{"rope_theta": 5}')
    backend.adjust(args)
    override = json.loads(args.json_model_override_args)
    assert override["num_hidden_layers"] == 1 and override["rope_theta"] == 5
    assert override["max_position_embeddings"] == 131072
    assert args.load_format == "dummy" and args.max_running_requests == 256
    assert args.served_model_name == f"EMULATED Qwen2.5-32B on {NAME}"
    heads = backend.heads(None)
    assert (heads.attention_heads, heads.kv_heads, heads.layers) == (40, 8, 64)
    assert heads.mlp_elements == 3 * 5120 * 27648


def test_what_the_device_decides_cannot_be_asked_for(backend):
    with pytest.raises(ConfigError, match="--max-total-tokens 4096"):
        backend.adjust(server_args(max_total_tokens=4096))
    with pytest.raises(ConfigError, match="--page-size 16"):
        backend.adjust(server_args(page_size=16))


@pytest.mark.parametrize("field", ["json_schema", "regex", "ebnf", "structural_tag"])
def test_grammars_are_refused(backend, field):
    request = SimpleNamespace(return_logprob=False, sampling_params={field: "x"})
    assert backend.refusal(request).startswith(field)
    assert backend.refusal(SimpleNamespace(return_logprob=True, sampling_params={}))
    assert backend.refusal(SimpleNamespace(return_logprob=False, sampling_params={})) is None


def test_a_degree_that_the_device_has_no_costs_for_is_refused(backend):
    with pytest.raises(ConfigError, match="16"):
        backend.require_degrees((1, 16))
    backend.require_degrees((1, 2, 4))


def test_a_worker_has_the_tokens_of_the_device(backend):
    degrees = (1, 2, 4)
    expected = backend.emulation.device.elastic_tokens(degrees)[1]
    assert backend.own_tokens(None, degrees) == expected
