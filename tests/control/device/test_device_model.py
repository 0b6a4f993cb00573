import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.device.device_file import device_names, load_device
from amoeba_sglang.errors import ConfigError

DEGREES = (1, 2, 4, 8)
NAMES = device_names()
COUNT = st.integers(0, 200_000)


def step(device, degree, prefill=0, prefill_context=0, rows=0, context=0):
    return device.step_seconds(degree, prefill, prefill_context, rows, context)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_knows_its_device_and_every_degree(name):
    device = load_device(name)
    assert device.name == name
    assert sorted(device.slowdown) == list(DEGREES)
    assert list(device.elastic_tokens(DEGREES)) == list(DEGREES)


def test_every_device_has_both_cost_models():
    kinds = {"roofline", "tp-loss"}
    stems = {name.removesuffix(f"-{kind}") for name in NAMES for kind in kinds}
    stems -= set(NAMES)
    assert {f"{stem}-{kind}" for stem in stems for kind in kinds} == set(NAMES)
    assert len(stems) == 5


@pytest.mark.parametrize(
    "name, thousands",
    # The study's own arithmetic, without whole pages.
    [
        ("h100-80-32b-roofline", (24, 256, 720, 1649)),
        ("h100-96-32b-roofline", (79, 366, 940, 2088)),
    ],
)
def test_capacity_of_elastic_instances(name, thousands):
    tokens = load_device(name).elastic_tokens(DEGREES)
    assert [tokens[d] / 1e3 for d in DEGREES] == pytest.approx(thousands, rel=0.03)


def test_a_decode_step_of_few_rows_reads_all_weights():
    device = load_device("h100-80-32b-roofline")
    reading = device.weight_bytes / (3.35e12 * 0.8)
    assert step(device, 1, rows=1, context=1) == pytest.approx(reading + 0.003, rel=0.001)


def test_a_long_prefill_is_limited_by_arithmetic():
    device = load_device("h100-80-32b-roofline")
    gemm = 2 * 32.76e9 * 8192 / (989e12 * 0.55)
    attention = 4 * 64 * 5120 * 8192 * 4096 / (989e12 * 0.55)
    found = step(device, 1, prefill=8192, prefill_context=8192 * 4096)
    assert found == pytest.approx(gemm + attention + 0.003, rel=0.001)


@given(st.sampled_from(NAMES), st.sampled_from(DEGREES), COUNT, COUNT, st.integers(0, 500), COUNT)
def test_more_work_never_takes_less_time(name, degree, prefill, pairs, rows, context):
    device = load_device(name)
    base = device.step_seconds(degree, prefill, pairs, rows, context)
    assert device.step_seconds(degree, prefill + 1, pairs, rows, context) >= base
    assert device.step_seconds(degree, prefill, pairs + 1, rows, context) >= base
    assert device.step_seconds(degree, prefill, pairs, rows + 1, context) >= base
    assert device.step_seconds(degree, prefill, pairs, rows, context + 1) >= base


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("tp-loss")])
def test_a_tp_loss_file_slows_only_the_higher_degrees(name):
    loss, roofline = load_device(name), load_device(name.replace("tp-loss", "roofline"))
    assert loss.slowdown[1] == 1 < min(loss.slowdown[degree] for degree in (2, 4, 8))
    for degree in DEGREES:
        expected = loss.slowdown[degree] * step(roofline, degree, 100, 5000, 10, 9000)
        assert step(loss, degree, 100, 5000, 10, 9000) == pytest.approx(expected)
    assert loss.elastic_tokens(DEGREES) == roofline.elastic_tokens(DEGREES)


def test_a_file_of_the_user(tmp_path):
    (tmp_path / "base.json").write_text(json.dumps(raw(like=None)))
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"like": "base", "flops": 1e12, "sources": {"flops": "measured"}}))
    assert (load_device(str(mine)).name, load_device(str(mine)).flops) == ("mine", 1e12)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"flops": ...}, "fields flops are missing"),
        ({"speed": 3}, "fields speed are not known"),
        ({"flops": "fast"}, "flops fast: must be a number"),
        ({"slowdown": {"1": -1}}, "slowdown -1: must be a number"),
        ({"sources": {}}, "sources of .*flops.* are missing"),
    ],
)
def test_a_bad_file_is_refused_by_field(tmp_path, change, message):
    fields = {name: value for name, value in (raw() | change).items() if value is not ...}
    (tmp_path / "bad.json").write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match=message):
        load_device(str(tmp_path / "bad.json"))


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ConfigError, match="b200.*h100-80-32b-roofline"):
        load_device("b200")


def test_a_degree_without_constants_is_refused():
    with pytest.raises(ConfigError, match="degree 3 is not one of its 1,2,4,8"):
        load_device("h100-80-32b-roofline").require_degree(3)


def raw(**changes):
    from importlib.resources import files

    text = (
        files("amoeba_sglang.control.device")
        .joinpath("files/h100-80-32b-roofline.json")
        .read_text()
    )
    return {k: v for k, v in (json.loads(text) | changes).items() if v is not None}
