"""The parts of `make gpu-bench` that need no server."""

import itertools

import pytest

from bench.gpu_bench import __main__ as gpu_bench
from bench.gpu_bench.sides import TINY, Sides
from bench.gpu_bench.switches import path_of, walk


@pytest.mark.parametrize("degrees", [(1, 2), (1, 2, 4), (1, 3, 6, 12)])
def test_a_walk_goes_from_every_degree_to_every_other_once(degrees):
    path = walk(degrees)
    pairs = list(itertools.pairwise(path))
    assert path[0] == path[-1] == 1
    assert sorted(pairs) == sorted(itertools.permutations(degrees, 2))


def test_a_path_of_many_switches_repeats_the_walk():
    path = list(path_of((1, 2, 4), 13))
    assert len(path) == 13 and path[:6] == path[6:12] == walk((1, 2, 4))[1:]
    assert all(one != other for one, other in itertools.pairwise([1, *path]))


def test_degree_1_is_also_measured_with_what_else_these_gpus_have():
    def names(kind, dtype="bfloat16"):
        return list(Sides("model", 2, kind, dtype).others)

    assert names("sm90") == ["trtllm_mha", "fa3 in pages of one token"]
    assert names("sm100") == [] and names("sm120") == ["trtllm_mha"]
    assert names("sm90", "float32") == []


def test_a_part_that_fails_is_named_and_the_others_go_on(monkeypatch):
    sheet = gpu_bench.Sheet(Sides("model", 2, "sm100", "bfloat16", reference=True), TINY)
    monkeypatch.setattr(sheet, "_elastic", lambda first: 1 / 0)
    served = []
    monkeypatch.setattr(sheet, "_stock", served.append)
    found = sheet.fill()
    assert found["servers"]["problem"].startswith("ZeroDivisionError")
    assert served == ["--dp-size", "--tp-size"]
    assert "degree 1 over --dp-size" in found["throughput"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--gpus", "1"], "--gpus 1: instances merge on 2 GPUs or more"),
        (["--gpus", "2", "--reference", "sm90", "--dtype", "float64"], "--dtype float64: the att"),
        (["--gpus", "2"], "--device cuda: PyTorch finds no GPU here"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_line(capsys, flags, line):
    with pytest.raises(SystemExit):
        gpu_bench.main(["--model", "anywhere", *flags])
    assert line in capsys.readouterr().err
