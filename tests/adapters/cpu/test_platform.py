"""SGLang, as installed, finds the platform through its entry point and dispatches to it, in a fresh
process.
"""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import torch
import sglang.srt.server_args as server_args
import sglang.srt.platforms as platforms
report = {"platform": type(platforms.current_platform).__name__}
choices = server_args.ATTENTION_BACKEND_CHOICES
report["choice"] = choices.count("amoeba_cpu")

def resolve(*flags):
    args = server_args.prepare_server_args(["--model-path", sys.argv[1], "--device", "cpu", *flags])
    args.resolve_once()
    from sglang.srt.arg_groups.overrides import resolving_view
    return resolving_view(args).attention_backend

report["default"] = resolve()
report["asked"] = resolve("--attention-backend", "amoeba_cpu")
report["other"] = resolve("--attention-backend", "torch_native")

platforms.current_platform.init_backend()
from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
report["registered"] = "amoeba_cpu" in ATTENTION_BACKENDS
report["pool_kinds"] = [
    kind for kind in ("mla", "dsa") if platforms.current_platform.get_kv_pool_cls(kind=kind)
]

from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding
from amoeba_sglang.adapters.cpu import ops

def worst(ours, theirs):
    return max(
        float(((a.double() - b.double()).abs() / b.double().abs().max()).max())
        for a, b in zip(ours, theirs, strict=True)
    )

torch.manual_seed(0)
report["norm"], report["rotary"], dispatched = {}, {}, set()
for dtype in (torch.float32, torch.bfloat16):
    norm = RMSNorm(576, eps=1e-5).to(dtype)
    norm.weight.data.normal_(1, 0.3)
    rotary = RotaryEmbedding(64, 64, 512, 10000, True, dtype)
    for rows in (1, 7, 33):
        x, residual, extra = (torch.randn(rows, 576).to(dtype) * 5 for _ in range(3))
        for rest in ((), (residual,), (residual, extra)):
            ours, theirs = norm(x, *rest), norm.forward_native(x, *rest)
            pair = (ours, theirs) if rest else ((ours,), (theirs,))
            key = str(dtype)
            report["norm"][key] = max(report["norm"].get(key, 0), worst(*pair))
        q, k = torch.randn(rows, 12 * 64).to(dtype), torch.randn(rows, 4 * 64).to(dtype)
        positions = torch.randint(512, (rows,))
        error = worst(rotary(positions, q, k), rotary.forward_native(positions, q, k))
        report["rotary"][key] = max(report["rotary"].get(key, 0), error)
    dispatched |= {norm._forward_method.__func__, rotary._forward_method.__func__}
report["dispatched"] = dispatched == {ops.rms_norm, ops.rotate}
report["empty"] = [list(t.shape) for t in norm(torch.empty(0, 576, dtype=dtype), residual[:0])]
half = RotaryEmbedding(64, 32, 512, 10000, True, torch.float32)
q = torch.randn(3, 128)
report["partial"] = worst(half(torch.arange(3), q, q), half.forward_native(torch.arange(3), q, q))
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report(registered, tmp_path_factory):
    model = tmp_path_factory.mktemp("model")
    (model / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    )
    environment = registered | {"SGLANG_PLATFORM": "amoeba_cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_platform_is_resolved_before_arguments_are_parsed(report):
    assert report["platform"] == "CpuPlatform"
    assert report["choice"] == 1


def test_backend_is_the_default_and_a_choice(report):
    assert report["default"] == report["asked"] == "amoeba_cpu"
    assert report["other"] == "torch_native"
    assert report["registered"]


def test_only_plain_attention_gets_the_elastic_pool(report):
    assert report["pool_kinds"] == []


def test_operators_are_dispatched_to(report):
    assert report["dispatched"]
    assert report["empty"] == [[0, 576], [0, 576]]


def test_operators_agree_with_sglangs(report):
    assert report["norm"]["torch.float32"] < 1e-6
    assert report["rotary"]["torch.float32"] < 1e-6
    assert report["norm"]["torch.bfloat16"] < 2e-2
    assert report["rotary"]["torch.bfloat16"] < 2e-2
    assert report["partial"] == 0
