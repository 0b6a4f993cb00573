"""What a server on GPUs takes, and refuses by name; torch.cuda and the driver are stood for."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import pytest
import torch
from sglang.srt import runtime_context
from sglang.srt.arg_groups import model_override_base
from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
from sglang.srt.server_args import ServerArgs

from amoeba_sglang.adapters.choice import choose_backend
from amoeba_sglang.adapters.cuda import backend as module
from amoeba_sglang.adapters.cuda import platform
from amoeba_sglang.adapters.cuda.collectives import GroupCollectives
from amoeba_sglang.adapters.cuda.flags import (
    choose_attention,
    find_kind,
    require_reach,
    say_attention,
)
from amoeba_sglang.adapters.cuda.flashinfer_attention import FlashInferAttention
from amoeba_sglang.adapters.cuda.kinds import ROWS, kind_of
from amoeba_sglang.adapters.cuda.platform import CudaPlatform
from amoeba_sglang.adapters.model import elastic_model
from amoeba_sglang.adapters.supported import require_supported_flags
from amoeba_sglang.config import GpuChoice
from amoeba_sglang.errors import ConfigError
from tests.serving.free_port import free_port
from tests.serving.servers import MODEL, PORTS

FA3 = GpuChoice("sm90", "fa3")
WHOLE = [[True] * 4] * 4
# GPUs 0 and 2 are connected, and 1 and 3.
PAIRS = [[one % 2 == other % 2 for other in range(4)] for one in range(4)]


def arguments(**given):
    usual = {
        "dtype": "auto", "page_size": 16, "tp_size": 2, "dp_size": 2,
        "base_gpu_id": 0, "gpu_id_step": 1,
    }  # fmt: skip
    return SimpleNamespace(**usual | given)


@pytest.mark.parametrize(
    ("capability", "kind"),
    [((8, 0), "sm80"), ((8, 9), "sm80"), ((9, 0), "sm90"), ((10, 3), "sm100"), ((12, 0), "sm120")],
)
def test_gpus_are_of_the_kind_of_their_capability(capability, kind):
    assert kind_of(capability) == kind and ROWS[kind]


@pytest.fixture
def gpus(monkeypatch):
    """Sets the capabilities of the GPUs that PyTorch finds."""

    def find(*capabilities):
        monkeypatch.setattr("torch.cuda.is_available", lambda: bool(capabilities))
        monkeypatch.setattr("torch.cuda.device_count", lambda: len(capabilities))
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda n: capabilities[n])

    return find


def test_only_gpus_of_one_kind_that_is_done_can_merge(gpus):
    gpus((9, 0), (9, 0))
    assert find_kind() == "sm90"
    gpus((7, 5))
    with pytest.raises(ConfigError, match=r"compute capability 7.5, .* by CUDA_VISIBLE_DEVICES"):
        find_kind()
    gpus((9, 0), (8, 0))
    with pytest.raises(ConfigError, match="GPUs of kinds sm90,sm80 cannot merge; choose"):
        find_kind()
    gpus()
    with pytest.raises(ConfigError, match="--device cuda: PyTorch finds no GPU here; use --device"):
        find_kind()


def said(rest, kind):
    """What SGLang is told."""
    row, others = choose_attention(rest, kind)
    return say_attention(others, row)


def test_sglang_is_told_the_attention_that_joint_steps_have():
    told = ["--attention-backend", "trtllm_mha", "--page-size", "16"]
    assert said(["--port", "1"], "sm100") == ["--port", "1", *told]
    own = ["--page-size=64", "--attention-backend", "trtllm_mha"]
    assert said(own, "sm90") == own
    same = ["--decode-attention-backend", "flashinfer"]
    assert said(same, "sm120") == ["--attention-backend", "flashinfer", "--page-size", "1"]
    single = ["--dtype", "float32"]
    assert said(single, "sm80")[2:4] == ["--attention-backend", "triton"]


@pytest.mark.parametrize("kind", ROWS)
def test_what_is_chosen_without_flags_is_what_sglang_would_choose(kind):
    """Its own function, asked in a process that pretends to have such a GPU."""
    context = runtime_context.RuntimeContext(runtime_context.ParallelContext())
    facts = {f"is_{one}": one == kind for one in ("sm90", "sm100", "sm120")}
    facts |= {"is_hopper_with_cuda_12_3": kind == "sm90", "has_flashinfer": True}
    model = SimpleNamespace(
        hf_config=SimpleNamespace(architectures=["LlamaForCausalLM"]),
        has_asymmetric_kv=False, has_attention_sinks=False,
    )  # fmt: skip
    args = SimpleNamespace(speculative_algorithm=None, speculative_eagle_topk=None, tp_size=1)
    with (
        runtime_context.use_context(context),
        runtime_context.override_platform(**facts),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(model_override_base, "current_platform", CudaPlatform())
        patch.setattr(model_override_base, "resolving_view", lambda given: given)
        patch.setattr(model_override_base, "resolved_view", lambda given: given)
        chosen = model_override_base.get_default_attn_backend(args, False, model)
    assert choose_attention([], kind)[0].attention == chosen


@pytest.mark.parametrize(
    ("rest", "line"),
    [
        (["--attention-backend", "fa4"], "fa4: joint steps on sm90 have fa3, trtllm_mha, triton"),
        (["--decode-attention-backend", "triton"], "--decode-attention-backend triton: .* name bo"),
        (
            ["--dtype", "half", "--attention-backend", "triton"],
            "--dtype half: triton on sm90 takes",
        ),
        (["--dtype", "float64"], "--dtype float64: the attention of sm90 that is there takes auto"),
    ],
)
def test_other_attention_is_refused(rest, line):
    with pytest.raises(ConfigError, match=line):
        choose_attention(rest, "sm90")


def test_the_gpus_of_a_group_must_reach_each_other():
    require_reach(arguments(), WHOLE)
    with pytest.raises(ConfigError, match="GPUs 0 and 1 .* with CUDA_VISIBLE_DEVICES=0,2,1,3"):
        require_reach(arguments(), PAIRS)
    require_reach(arguments(dp_size=1, gpu_id_step=2), PAIRS)
    require_reach(arguments(dp_size=1, base_gpu_id=1, gpu_id_step=2), PAIRS)
    with pytest.raises(ConfigError, match="GPUs 0 and 1 .* no order of the GPUs helps, take a sma"):
        require_reach(arguments(tp_size=4, dp_size=1), PAIRS)
    with pytest.raises(ConfigError, match="--tp-size 2 --dp-size 4: .* 0 to 7, .* and 4 are seen"):
        require_reach(arguments(dp_size=4), WHOLE)


def test_a_backend_of_gpus_says_that_it_has_not_run_on_one(monkeypatch):
    monkeypatch.setattr(module, "load_bindings", lambda: None)
    monkeypatch.setattr(module, "read_reach", lambda bindings: WHOLE)
    backend = choose_backend("cuda", gpu=GpuChoice("sm90", "trtllm_mha"))
    assert (backend.name, backend.gpu.kind, backend.kv_layout(16)) == ("cuda", "sm90", "hnd")
    assert "not yet run on a GPU" in backend.sentence
    assert (backend.pages.least, backend.pages.usual, backend.pages.most) == (2048, 2048, 32768)
    backend.adjust(arguments())
    with pytest.raises(
        ConfigError, match="--page-size 1: trtllm_mha on sm90 takes 16, 32, 64, 128"
    ):
        backend.adjust(arguments(page_size=1))
    with pytest.raises(ConfigError, match="--dtype float32: trtllm_mha on sm90 .* command line"):
        backend.adjust(arguments(dtype="float32"))
    assert backend.transports == ("peer",)
    monkeypatch.setenv("SGLANG_ENABLE_POST_CAPTURE_KV_SIZING", "True")
    with pytest.raises(ConfigError, match="SGLANG_ENABLE_POST_CAPTURE_KV_SIZING: .* unset it"):
        backend.adjust(arguments())


def test_attention_that_plans_has_an_instance_a_degree(monkeypatch):
    backend = choose_backend("cuda", gpu=GpuChoice("sm80", "flashinfer"))
    monkeypatch.setattr(FlashInferAttention, "__init__", lambda self, runner, degree: None)
    own = object.__new__(FlashInferAttention)
    runner = SimpleNamespace(attn_backend=own)
    assert backend.attention_at(runner, 1) is own
    assert backend.attention_at(runner, 2) is not own
    other = SimpleNamespace(attn_backend=object())
    assert backend.attention_at(other, 4) is other.attn_backend


def test_collectives_that_sglang_makes_for_one_degree_are_refused_by_name():
    """Its own default among them, where it would choose such for a model."""
    fields = {field.name: field.default for field in msgspec.structs.fields(ServerArgs)}
    unsupported = choose_backend("cuda", gpu=FA3).unsupported
    require_supported_flags(fields, fields, unsupported)
    line = "--flashinfer-allreduce-fusion-backend auto: Amoeba does not support collectives of one"
    given = fields | {"flashinfer_allreduce_fusion_backend": "auto"}
    with pytest.raises(ConfigError, match=line):
        require_supported_flags(given, fields, unsupported)


class Coordinator:
    """Of upstream's: rank 1 of 3, whose peers send the same but for a sign."""

    rank_in_group = 1

    def all_gather(self, x, dim):
        return torch.cat([-x, x, 2 * x], dim)


def test_rows_of_any_number_are_gathered_in_rank_order():
    collectives = GroupCollectives(Coordinator())
    assert collectives.rank == 1
    ids = torch.tensor([5, 7])
    assert collectives.all_gather_rows(ids, [1, 2, 3]).tolist() == [-5, 5, 7, 10, 14, 0]
    assert collectives.all_gather_rows(ids[:0], [2, 0, 1]).tolist() == [0, 0, 0]
    hidden = torch.arange(6.0).view(2, 3)
    found = collectives.all_gather_rows(hidden, [2, 2, 0])
    assert torch.equal(found, torch.cat([-hidden, hidden]))
    assert collectives.all_gather(hidden, 1).shape == (2, 9)


_RESOLVE = """
import torch
torch.cuda.is_available = lambda: True
torch.cuda.get_device_name = lambda *_: "NVIDIA H200"
torch.cuda.get_device_capability = lambda *_: (9, 0)
from sglang.srt.platforms import current_platform as platform
print(type(platform).__name__, platform.is_cuda(), platform.is_out_of_tree())
"""


def test_sglang_on_a_gpu_is_its_own_unless_ours_is_asked_for():
    """In a process that pretends to have a GPU. Whoever only installs us gets SGLang's platform."""
    environment = {**os.environ, "SGLANG_PLATFORM": ""}
    found = subprocess.run(
        [sys.executable, "-c", _RESOLVE], env=environment, capture_output=True, text=True
    )
    assert found.stdout.strip() == "CudaSRTPlatform True False", found.stderr


@pytest.mark.parametrize(
    ("flags", "gpus", "settled"),
    [
        (("--tp-size", "2", "--dp-size", "2"), 4, {"workers": 4, "step": 1}),
        (("--tp-size", "2", "--amoeba-share-gpu", "--max-total-tokens", "4096"), 1, {"step": 0}),
    ],
    ids=["a GPU each", "one GPU"],
)
def test_the_launcher_gets_to_where_it_would_serve_on_gpus(flags, gpus, settled):
    """With SGLang's own settling of flags for a GPU, which a process only pretends to have."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORCHDYNAMO")}
    environment.pop("SGLANG_PLATFORM", None)
    served = ("--model-path", MODEL, "--host", "127.0.0.1", "--port", str(free_port(*PORTS)))
    said = subprocess.run(
        [sys.executable, "-m", "tests.adapters.cuda.pretended", *served, *flags],
        env=environment | {"PRETENDED_GPUS": str(gpus)}, capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-2000:]
    assert json.loads(said.stdout.splitlines()[-1]) == {
        "platform": "CudaPlatform", "attention": "fa3", "page": 16, "device": "cuda",
        "pages_kib": 2048, "kind": "sm90", "workers": 2, "dynamo": None,
    } | settled  # fmt: skip


def test_attention_is_ours_from_when_a_model_is_loaded_on(monkeypatch):
    """SGLang asks a platform for CUDA to register nothing, and makes attention after this hook."""
    taken = dict(ATTENTION_BACKENDS)
    monkeypatch.setattr(elastic_model, "adopt_if_ours", lambda model: taken.update(model=model))
    try:
        CudaPlatform().post_load_model("a model")
        made = {name: ATTENTION_BACKENDS[name] for name in ("fa3", "flashinfer", "triton")}
    finally:
        for name in ATTENTION_BACKENDS:
            ATTENTION_BACKENDS[name] = taken[name]
    assert taken["model"] == "a model"
    assert all(make.__module__ == platform.__name__ for make in made.values()), made
    assert not CudaPlatform().is_out_of_tree()
