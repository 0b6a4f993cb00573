import itertools
import math
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.config import ModelHeads, build_config, longest_chain
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.flags import make_parser

HEADS = ModelHeads(attention_heads=12, kv_heads=4, layers=30, mlp_elements=1000, kv_bytes=2048)


def build(
    *flags: str, group_size: int = 4, groups: int = 1, heads: ModelHeads = HEADS, kv_page: int = 1
):
    options = make_parser().parse_args(flags)
    return build_of(options, group_size=group_size, groups=groups, heads=heads, kv_page=kv_page)


def build_of(options, **parts):
    usual = {"group_size": 4, "groups": 1, "heads": HEADS, "kv_page": 1}
    return build_config(options, run_directory="/run/amoeba", **(usual | parts))


def test_defaults():
    config = build(groups=2)
    assert config.workers == 8
    assert config.degrees == (1, 2, 4)
    assert (config.policy, config.transport, config.initial_degree) == ("amoeba", "peer", 1)
    assert (config.page_size_kib, config.staging_mib, config.layers) == (64, 8, 30)
    assert config.mlp_elements == 1000
    assert config.report_address == "ipc:///run/amoeba/reports"
    assert config.rendezvous == "file:///run/amoeba/rendezvous"
    assert pickle.loads(pickle.dumps(config)) == config


@given(st.integers(1, 512))
def test_longest_chain_is_a_chain_of_primes(size):
    chain = longest_chain(size)
    assert (chain[0], chain[-1]) == (1, size)
    for low, high in itertools.pairwise(chain):
        ratio = high // low
        assert high == low * ratio
        assert all(ratio % k for k in range(2, math.isqrt(ratio) + 1))


def test_longest_chain_examples():
    assert longest_chain(8) == (1, 2, 4, 8)
    assert longest_chain(6) == (1, 2, 6)


def test_a_chain_may_skip_degrees():
    assert build("--amoeba-degrees", "1,4").degrees == (1, 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,x", "not a list of integers"),
        ("", "not a list of integers"),
        ("2,4", "the first degree is 2, not 1"),
        ("1,2,3", "3 is not a larger multiple of 2"),
        ("1,2,2,4", "2 is not a larger multiple of 2"),
        ("1,2", "the last degree is 2, but --tp-size is 4"),
    ],
)
def test_bad_degrees(text, says):
    with pytest.raises(ConfigError) as error:
        build("--amoeba-degrees", text)
    assert str(error.value).startswith("--amoeba-degrees")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "shape", "says"),
    [
        ((), {"group_size": 1}, "--tp-size 1: Amoeba needs a group of at least 2 workers"),
        ((), {"group_size": 3}, "--tp-size 3: the model has 4 KV heads"),
        ((), {"group_size": 8}, "--tp-size 8: the model has 12 attention heads"),
        (
            (),
            {"heads": replace(HEADS, experts=6)},
            "has 6 experts, which it does not divide; take 2",
        ),
        ((), {"groups": 0}, "--dp-size 0"),
        (("--amoeba-initial-degree", "3"), {}, "--amoeba-initial-degree 3: not one of the degrees"),
        (("--amoeba-layers-per-step", "31"), {}, "from 0 to the model's 30 layers"),
        (("--amoeba-layers-per-step", "-1"), {}, "--amoeba-layers-per-step -1: neither auto nor"),
        (("--amoeba-layers-per-step", "few"), {}, "--amoeba-layers-per-step few: neither auto nor"),
        (("--amoeba-page-size-kib", "48"), {}, "--amoeba-page-size-kib 48"),
        (("--amoeba-page-size-kib", "4096"), {}, "--amoeba-page-size-kib 4096"),
        ((), {"kv_page": 0}, "--page-size 0: not from 1 to 128"),
        ((), {"kv_page": 129}, "--page-size 129: not from 1 to 128"),
        (
            ("--amoeba-staging-mib", "1"),
            {"kv_page": 128, "heads": replace(HEADS, kv_bytes=16384)},
            "--page-size 128: --amoeba-staging-mib 1 holds 64 tokens of one layer",
        ),
        (
            ("--amoeba-staging-mib", "1", "--amoeba-transport", "collective"),
            {"kv_page": 64, "heads": replace(HEADS, kv_bytes=16384)},
            "--amoeba-staging-mib 1 holds 32 tokens",
        ),
        (("--amoeba-staging-mib", "0"), {}, "--amoeba-staging-mib 0"),
        (("--amoeba-prepare-timeout-s", "0"), {}, "--amoeba-prepare-timeout-s 0"),
    ],
)
def test_bad_flags(flags, shape, says):
    with pytest.raises(ConfigError) as error:
        build(*flags, **shape)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "flags",
    [
        ("--amoeba-policy", "best"),
        ("--amoeba-transport", "tcp"),
    ],
)
def test_unknown_choices_end_the_parser(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(flags)
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_other_flags_are_left_to_sglang():
    flags = ["--tp-size", "4", "--amoeba-degrees", "1,4", "--amoeba", "x"]
    options, rest = make_parser().parse_known_args(flags)
    assert options.amoeba_degrees == "1,4"
    assert rest == ["--tp-size", "4", "--amoeba", "x"]


def test_nothing_gives_a_worker_up_before_the_watchdog_does():
    options = make_parser().parse_args([])
    config = build_of(options, watchdog_timeout_s=1000.0)
    assert config.watchdog_timeout_s == 1000.0
    assert config.finish_timeout_s >= 1000.0
    assert build().watchdog_timeout_s == 300.0
    with pytest.raises(ConfigError, match="--watchdog-timeout 0: must be positive"):
        build_of(options, watchdog_timeout_s=0.0)
