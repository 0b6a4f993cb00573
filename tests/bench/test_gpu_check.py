"""The checks for an owner of a GPU, on a stand-in for the driver."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from amoeba_sglang.control.layout.slots import DegreeChain
from bench.gpu_check import __main__ as gpu_check
from bench.gpu_check import check, movers, workers
from tests.bench.stand_in_gpu import StandInGpu, open_files

ROOT = Path(__file__).parents[2]
# What torch, triton and cuda-python bring; everything else is SGLang's.
ALLOWED = {
    "torch", "torchgen", "functorch", "triton", "cuda", "numpy", "sympy", "mpmath", "networkx",
    "jinja2", "markupsafe", "fsspec", "filelock", "typing_extensions", "setuptools", "nvidia",
}  # fmt: skip


def test_the_driver_check_passes_and_withholds_figures_that_mean_nothing():
    before = open_files()
    line = check.run("driver", StandInGpu())
    assert line["ok"], line
    assert line["contract"] == "as asked for" and line["us_a_page"] == "withheld"
    assert open_files() == before


def test_all_calls_are_timed_where_that_means_something():
    line = check.run("driver", StandInGpu(figures=True), page_sizes=(2 << 20,), counts=(1, 2))
    times = line["us_a_page"]["2 MiB"]
    assert list(times) == [1, 2]
    names = {"create", "map", "export", "open", "close", "unmap", "release"}
    assert all(set(found) == names for found in times.values())


def test_memory_that_does_something_else_is_found():
    before = open_files()
    line = check.run("driver", StandInGpu(broken=True))
    assert not line["ok"]
    assert line["problem"].startswith("AssertionError: "), line
    assert open_files() == before


@pytest.fixture(scope="module")
def lines():
    """What the checks that move KV by the real kernel find; the interpreter takes its time."""
    said = subprocess.run(
        [sys.executable, "-m", "tests.bench.interpreted_movers"],
        cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    return [json.loads(line) for line in said.stdout.splitlines()[-3:]]


def test_the_movers_check_walks_through_every_change_with_the_real_kernel(lines):
    assert lines[0]["ok"], lines[0]
    assert lines[0]["N=2"] == {"changes": 8, "bits": "as they were", "gb_s": "withheld"}


def test_merged_workers_compute_what_one_computes_alone(lines):
    assert lines[1]["ok"], lines[1]
    assert list(lines[1]["N=4"]["furthest"]) == ["2", "4"]
    for count in ("N=2", "N=4"):
        found = lines[1][count]
        assert 0 < max(found["furthest"].values()) < 1e-3 and found["in grown memory"] < 1e-3
        assert found["bits"] == "as they were" and found["weight_bytes"] > 0


def test_memory_that_comes_back_in_another_order_is_computed_with_and_found(lines):
    assert not lines[2]["ok"] and lines[2]["problem"].startswith("AssertionError: worker "), lines[
        2
    ]


def test_one_wrong_word_of_a_unit_is_found():
    before = open_files()
    pool = movers.Pool(workers.Group(0, 1, None), StandInGpu(), DegreeChain((1, 2)), movers.SMALL)
    pool.meet([pool.export()])
    live = [np.array([1, 4, 5])]
    pool.fill((1,), live)
    pool.expect((1,), live)
    pool.tensors[1][0][4, 1, -1] += 1
    with pytest.raises(AssertionError, match=r"worker 0: 1 of 3 units at place 1 of layout \(1,\)"):
        pool.expect((1,), live)
    pool.close()
    assert open_files() == before


def test_stages_that_are_none_are_refused_by_name(capsys):
    assert gpu_check.main(["--stages", "kernels,all"]) == 2
    assert capsys.readouterr().err == (
        "error: --stages all: is no stage; known are kernels, server, multi\n"
    )


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("raise SystemExit('broken  beyond\\nrepair')", "exit code 1: broken beyond repair"),
        ("import time; time.sleep(60)", "not done within 1 s"),
    ],
)
def test_a_check_that_crashes_or_hangs_is_a_line_too(monkeypatch, command, problem):
    real = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda _, **options: real([sys.executable, "-c", command], **options)
    )
    assert gpu_check.run("driver", 1.0) == {"check": "driver", "ok": False, "problem": problem}


def test_it_needs_torch_triton_and_cuda_only():
    program = f"""
import importlib.machinery, sys

class Bare:
    # A machine on which nothing else is installed.
    def find_spec(self, name, path=None, target=None):
        spec = None if "." in name else importlib.machinery.PathFinder.find_spec(name)
        foreign = spec is not None and "-packages" in (spec.origin or "")
        if foreign and not name.startswith("_") and name not in {ALLOWED!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Bare())
from bench.gpu_check import __main__, check, driver, joint, movers
from amoeba_sglang.planes.memory import cuda
from cuda.bindings import driver
assert "torch" in sys.modules
try:
    import sglang
except ModuleNotFoundError:
    print("bare")
"""
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout == "bare\n"


def test_instances_are_not_merged_on_one_gpu():
    line = check.run("elastic", StandInGpu())
    assert not line["ok"] and "merge on at least 2 GPUs, there are 1" in line["problem"], line
