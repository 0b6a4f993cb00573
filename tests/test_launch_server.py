import json
import os
import subprocess
import sys

import pytest
import torch

from amoeba_sglang import launch_server
from amoeba_sglang.adapters import launch
from amoeba_sglang.adapters.choice import choose_backend
from amoeba_sglang.adapters.cpu import NAME
from amoeba_sglang.config import GpuChoice, ModelHeads, build_config
from amoeba_sglang.control.router.limits import RequestLimits
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.flags import make_parser

GPU = GpuChoice("sm90", "trtllm_mha")


def config_of(*flags: str):
    heads = ModelHeads(12, 4, 30, 1000, 2048)
    return build_config(
        make_parser().parse_args(flags),
        group_size=4,
        groups=1,
        heads=heads,
        kv_page=1,
        run_directory="/run",
    )


@pytest.fixture
def environment(monkeypatch):
    """The variables of this process, put back after the test."""
    copy, threads = dict(os.environ), torch.get_num_threads()
    for name in ("SGLANG_PLATFORM", "OMP_NUM_THREADS", "SGLANG_CPU_OMP_THREADS_BIND"):
        monkeypatch.delenv(name, raising=False)
    for name in ("GLOO_SOCKET_IFNAME", "TORCHDYNAMO_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    yield os.environ
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(copy)


def test_a_cpu_gets_the_cpu_platform(environment):
    rest = ["--port", "1", "--device", "cpu"]
    assert launch_server.choose_device(["--device", "cpu", "--port", "1"], None) == (rest, None)
    assert launch_server.choose_device(["--port", "1"], None) == (rest, None)
    assert environment["SGLANG_PLATFORM"] == NAME
    assert environment["TORCHDYNAMO_DISABLE"] == "1"


@pytest.mark.parametrize(("set_to", "kept"), [("", NAME), ("another_platform", "another_platform")])
def test_a_platform_that_the_user_named_stays(environment, set_to, kept):
    environment["SGLANG_PLATFORM"] = set_to
    launch_server.choose_device(["--device", "cpu"], None)
    assert environment["SGLANG_PLATFORM"] == kept


@pytest.mark.parametrize("rest", [[], ["--device=cuda"]])
def test_a_gpu_gets_the_cuda_platform_and_its_attention(environment, monkeypatch, rest):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda number: (9, 0))
    attention = ["--attention-backend", "fa3", "--page-size", "16"]
    chosen = launch_server.choose_device(rest, None)
    assert chosen == ([*attention, "--device", "cuda"], GpuChoice("sm90", "fa3"))
    assert environment["SGLANG_PLATFORM"] == "amoeba_cuda"


def test_a_gpu_that_is_not_there_is_refused_with_what_there_is(environment):
    with pytest.raises(ConfigError, match="--device cuda: .* use --device cpu, or add"):
        launch_server.choose_device(["--device", "cuda"], None)
    assert "SGLANG_PLATFORM" not in environment


def test_a_reference_device_stands_for_a_gpu_and_computes_on_the_host(environment):
    flags = ["--device", "cuda", "--port", "1", "--attention-backend", "trtllm_mha"]
    rest, gpu = launch_server.choose_device(flags, "sm90")
    # The attention is its platform's.
    assert (rest, gpu) == (["--port", "1", "--device", "cpu"], GPU)
    assert environment["SGLANG_PLATFORM"] == "amoeba_reference"
    assert environment["TRITON_INTERPRET"] == environment["TORCHDYNAMO_DISABLE"] == "1"


def test_only_workers_on_a_gpu_share_it():
    assert launch_server.share(GPU, None) == GpuChoice("sm90", "trtllm_mha", shared=True)
    for gpu, reference in ((None, None), (GPU, "sm90")):
        with pytest.raises(ConfigError, match="--amoeba-share-gpu: only workers on a GPU"):
            launch_server.share(gpu, reference)


@pytest.mark.parametrize("rest", [[], ["--device", "cpu"]])
def test_a_reference_device_without_the_device_it_stands_for_is_refused(environment, rest):
    with pytest.raises(ConfigError, match="--amoeba-reference-device sm90: .* add --device cuda"):
        launch_server.choose_device(rest, "sm90")
    assert "SGLANG_PLATFORM" not in environment


def test_the_environment_of_the_children(environment):
    config = config_of()
    launch.prepare_environment(config, choose_backend("cpu"))
    assert environment["SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"] == config.rendezvous
    assert environment["GLOO_SOCKET_IFNAME"] == "lo"
    assert len(environment["SGLANG_CPU_OMP_THREADS_BIND"].split("|")) == 4
    assert int(environment["OMP_NUM_THREADS"]) == torch.get_num_threads() >= 1


def test_children_on_gpus_compile_and_thread_as_sglang_has_it(environment):
    threads = torch.get_num_threads()
    launch.prepare_environment(config_of(), choose_backend("cuda", gpu=GPU))
    assert environment["GLOO_SOCKET_IFNAME"] == "lo"
    assert "OMP_NUM_THREADS" not in environment and "TORCHDYNAMO_DISABLE" not in environment
    assert torch.get_num_threads() == threads


def test_what_the_user_set_stays(environment):
    environment["OMP_NUM_THREADS"] = "7"
    environment["GLOO_SOCKET_IFNAME"] = "eth9"
    launch.prepare_environment(config_of(), choose_backend("cpu"))
    assert environment["OMP_NUM_THREADS"] == "7"
    assert torch.get_num_threads() == 7
    assert environment["GLOO_SOCKET_IFNAME"] == "eth9"


def test_the_ready_line():
    limits = RequestLimits(2046, 4000, 9000, ladder=(2046, 4000))
    line = launch.describe(config_of("--amoeba-initial-degree", "2"), "said", limits, "http://x:1")
    for part in ("http://x:1: said; 4 workers", "layout 2+2", "degrees 1,2,4", "transport peer"):
        assert part in line
    assert "requests of up to 2046 tokens, 9000 when merged" in line
    assert "\n" not in line


def test_an_unpatched_sglang_is_one_line_and_code_2(monkeypatch, capsys):
    def refuse():
        raise ConfigError("sglang is unpatched; run: X")

    monkeypatch.setattr(launch_server, "require_patched", refuse)
    assert launch_server.main(["--model-path", "m"]) == 2
    assert capsys.readouterr().err == "error: sglang is unpatched; run: X\n"


def test_every_extension_class_has_a_place():
    assert set(launch.EXTENSION_CLASSES) == {
        "scheduler",
        "data_parallel_controller",
        "mha_kv_pool",
        "paged_allocator",
    }


# One process that imports SGLang, for all that needs its parser and its model configurations.
CHILD = """
import json, sys
from amoeba_sglang import launch_server
from amoeba_sglang.adapters import launch
launch_server.require_patched = lambda: None
launch_server.serve = lambda args, config: print("SERVED", json.dumps([
    args.tp_size, args.dp_size, config.group_size, config.degrees, args.sleep_on_idle,
    args._amoeba == config, args._one_world, sorted(args._extension_classes)]))
launch_server.RunDirectory.adopt = lambda self: None
model = sys.argv[1]
for flags in json.loads(sys.argv[2]):
    try:
        code = launch_server.main(["--model-path", model, "--device", "cpu", *flags])
    except SystemExit as ended:
        code = ended.code
    print("CODE", code, flush=True)
"""


def test_flags_meet_sglang_s_own(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(
        '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, '
        '"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2, '
        '"intermediate_size": 128, "vocab_size": 256, "max_position_embeddings": 512}'
    )
    cases = [
        ["--tp-size", "4", "--dp-size", "2", "--amoeba-degrees", "1,4"],
        ["--tp-size", "4", "--enable-lora"],
        ["--tp-size", "3"],
        ["--tp-size", "2", "--amoeba-policy", "best"],
        ["--tp-size", "2", "--no-such-flag"],
        ["--tp-size", "2", "--model-path", str(tmp_path / "nowhere")],
        ["--help"],
    ]
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(model), json.dumps(cases)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    lines = run.stdout.splitlines()
    codes = [line.split()[1] for line in lines if line.startswith("CODE")]
    assert codes == ["0", "2", "2", "2", "2", "2", "0"], run.stderr[-3000:]
    served = next(line for line in lines if line.startswith("SERVED"))
    assert json.loads(served.removeprefix("SERVED ")) == [
        1,
        8,
        4,
        [1, 4],
        True,
        True,
        True,
        sorted(launch.EXTENSION_CLASSES),
    ]
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert "--enable-lora True: Amoeba does not support LoRA" in errors[0]
    assert "--tp-size 3: the model has 4 attention heads" in errors[1]
    assert "nowhere" in errors[2]
    assert "--no-such-flag" in run.stderr
    assert "--amoeba-degrees" in run.stdout
    assert "--chunked-prefill-size" in run.stdout


def test_workers_on_gpus_move_kv_only_through_memory():
    launch._require_transport("peer", choose_backend("cuda", gpu=GPU))
    launch._require_transport("collective", choose_backend("cpu"))
    for backend in (choose_backend("cuda", gpu=GPU), choose_backend("cpu", gpu=GPU)):
        with pytest.raises(ConfigError, match="--amoeba-transport collective: .* have peer; leave"):
            launch._require_transport("collective", backend)
