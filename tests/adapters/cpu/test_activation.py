"""To be installed changes nothing: SGLang takes our platform only where a variable names it."""

import json
import subprocess
import sys

import pytest

from amoeba_sglang.adapters.cpu import activate

# Resolves as `python -m sglang.launch_server` does, on this machine and as if it had a GPU.
SCRIPT = """
import json, os
import torch
import sglang.srt.platforms as platforms
from sglang.srt.arg_groups import choices

def resolve(**variables):
    os.environ.update(variables)
    try:
        return type(platforms._resolve_platform()).__name__
    finally:
        for name in variables:
            del os.environ[name]

report = {"plain": resolve(), "amx": resolve(SGLANG_USE_CPU_ENGINE="1")}
torch.cuda.is_available = lambda: True
torch.cuda.get_device_name = lambda: "pretended"
report["gpu"] = resolve()
report["choice"] = "amoeba_cpu" in choices.ATTENTION_BACKEND_CHOICES
report["named"] = resolve(SGLANG_PLATFORM="amoeba_cpu")
report["choice when named"] = "amoeba_cpu" in choices.ATTENTION_BACKEND_CHOICES
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report(registered):
    environment = {k: v for k, v in registered.items() if k != "SGLANG_USE_CPU_ENGINE"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_stock_sglang_keeps_its_own_platform(report):
    assert report["gpu"] == "CudaSRTPlatform"
    assert report["amx"] == "CpuSRTPlatform"
    assert report["plain"] == "SRTPlatform"
    assert not report["choice"]


def test_named_platform_is_taken_even_beside_a_gpu(report):
    assert report["named"] == "CpuPlatform"
    assert report["choice when named"]


@pytest.mark.parametrize("value", [None, "", "another_platform"])
def test_entry_point_answers_only_to_its_name(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("SGLANG_PLATFORM", raising=False)
    else:
        monkeypatch.setenv("SGLANG_PLATFORM", value)
    assert activate() is None
