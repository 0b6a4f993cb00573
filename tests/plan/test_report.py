"""The plan of a model on a device, as data and as text."""

from dataclasses import asdict

import pytest

from amoeba_sglang.control.layout.decoder import load_model
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.plan.device_memory import DeviceMemory
from amoeba_sglang.plan.report import GB, Report

MODEL = load_model("Qwen2.5-7B", 2, 2)


def report(device=80, share=0.9, degrees=(1, 2, 4), page_kib=2048, model=MODEL, of_degrees=()):
    memory = DeviceMemory(device * GB, round(device * GB * share), *of_degrees)
    pages = WeightPages(DegreeChain(degrees), page_kib << 10, model.mlp_layers)
    return Report.build(model, pages, memory, kv_page=1)


def test_the_weights_of_a_worker_are_all_there():
    made = report()
    data = made.data()
    weights = sum(data["weights"].values())
    assert weights == MODEL.replicated_bytes + MODEL.mlp_bytes
    assert f"{'all':<30}{weights / GB:>10.3f}" in made.text()
    assert data["usable_bytes"] == 72 * GB and data["degrees"] == (1, 2, 4)
    assert data["capacity"] == asdict(made.capacity) and not made.warnings


@pytest.mark.parametrize(
    "name, tokens",
    [
        ("Qwen3-30B-A3B", {1: 110_591, 2: 811_006, 4: 2_211_836}),
        ("Mixtral-8x7B", {2: 360_446, 4: 1_409_020}),
        ("Qwen3-235B-A22B", {}),
    ],
)
def test_a_mixture_is_planned_and_said_to_be_served_on_no_gpu(name, tokens):
    made = report(model=load_model(name, 2, 2))
    assert {row.degree: row.tokens for row in made.capacity.degrees} == tokens
    assert "served on the CPU alone" in made.text() and "routers" in made.text()
    assert "routers" not in report().text()


def test_every_degree_has_its_line_and_every_change():
    lines = report().text().splitlines()
    rows = [line.split() for line in lines]
    capacity = report().capacity
    for at in capacity.degrees:
        assert sum(row[:1] == [str(at.degree)] and f"{at.tokens:,}" in row for row in rows) >= 1
    for change in capacity.changes:
        assert any(row[:3] == [str(change.low), "-", str(change.high)] for row in rows)


def test_a_group_of_one_has_no_changes_to_show():
    assert "a merge and its split" not in report(degrees=(1,)).text()


def test_a_device_that_is_too_small_says_what_would_fit():
    fits_two = report(device=15)
    [warning] = [line for line in fits_two.warnings if "does not fit" in line]
    assert "only those shown would fit" in warning
    nothing = report(device=4)
    assert any("none would fit" in line for line in nothing.warnings)
    assert "no degree fits" in nothing.text()


def test_every_warning_is_in_the_text():
    made = report(device=20, page_kib=32)
    assert any("vm.max_map_count" in line for line in made.warnings)
    for warning in made.warnings:
        assert f"warning: {warning}" in made.text()


def test_communicators_take_of_the_kv_and_recorded_steps_of_the_rest():
    without, made = report(), report(of_degrees=(1 * GB, 2 * GB))
    assert made.data()["usable_bytes"] == 70 * GB
    for before, after in zip(without.capacity.degrees, made.capacity.degrees, strict=True):
        assert abs(before.kv_bytes - after.kv_bytes - 2 * GB) < 2 * MODEL.layers * (2 << 20)
    assert not made.warnings and "take 2.00 GB" in made.text() and "6.00 GB" in made.text()
    assert "not counted" in without.text() and "not counted" not in made.text()


def test_recorded_steps_that_find_no_room_are_said():
    [warning] = report(of_degrees=(0, 3 * GB)).warnings
    assert "need 1.00 GB more" in warning and "--mem-fraction-static" in warning
