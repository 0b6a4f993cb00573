"""What the doctor says of a machine, line by line."""

import json
import resource
import socket

import pytest

from amoeba_sglang import doctor
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.memory.base import MemoryFault

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 512,
}


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(b"0" * 1000)
    return tmp_path


@pytest.fixture
def patched(monkeypatch):
    monkeypatch.setattr(doctor, "check_sglang", lambda: doctor.Finding("SGLang", "patched"))
    monkeypatch.setattr(doctor, "_count_gpus", lambda: 0)
    monkeypatch.setattr(doctor, "_read_reach", lambda: [])


def run(model, capsys, *flags):
    code = doctor.main(["--model-path", str(model), *flags])
    return code, capsys.readouterr().out.splitlines()


def test_all_well_is_code_0_and_one_screen(model, patched, capsys):
    code, lines = run(model, capsys, "--port", "0")
    assert code == 0
    assert lines[-1] == "a server can start here"
    assert all(line.startswith("ok ") for line in lines[:-1])
    assert len(lines) < 24


def test_a_failure_is_code_1_with_its_remedy_below(model, patched, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, lines = run(model, capsys, "--port", str(port))
    assert code == 1
    at = next(i for i, line in enumerate(lines) if line.startswith("FAIL"))
    assert f"--port {port}" in lines[at]
    assert lines[at + 1].strip().startswith("-> choose another --port")
    assert lines[-1] == "1 of 9 checks failed"


def test_sglang_that_is_not_patched_names_the_command(monkeypatch):
    def refuse():
        raise ConfigError("sglang in /x is unpatched; run: python -m amoeba_sglang.patch apply")

    monkeypatch.setattr(doctor, "require_patched", refuse)
    assert doctor.check_sglang().remedy.endswith("patch apply")


def test_the_installed_sglang_is_found():
    finding = doctor.check_sglang()
    assert (finding.text, finding.remedy) == ("0.5.23, all patches applied", "")


def test_devices():
    assert "x86-64" in doctor.check_device("aarch64", lambda: 0).remedy
    assert "GPU" not in doctor.check_device("x86_64", lambda: 0).text
    beside = doctor.check_device("x86_64", lambda: 2)
    assert "2 GPUs, used by default: no server has run on one yet" in beside.text
    assert not beside.remedy


def test_limits():
    low = doctor.check_limit("memory", 5 * doctor.MIB, 7 * doctor.MIB - 1, "buy more", doctor.MIB)
    assert (low.text, low.remedy) == ("5 MiB, 7 MiB needed", "buy more")
    assert not doctor.check_limit("files", 4096, 4096, "raise it").remedy
    assert doctor.check_limit("files", 4095, 4096, "raise it").remedy
    endless = doctor.check_limit("files", resource.RLIM_INFINITY, 4096, "raise it")
    assert (endless.text, endless.remedy) == ("no limit", "")


def test_memory_counts_the_weights_once_a_worker(model):
    one, three = (doctor.memory_needed(model, workers) for workers in (1, 3))
    assert three - one == 2 * (doctor.WORKER_BYTES + 1000)
    assert doctor.read_available("MemTotal: 9 kB\nMemAvailable:    3 kB\n") == 3072


def test_models(model, tmp_path):
    assert not doctor.check_model(model).remedy
    (model / "model.safetensors").unlink()
    assert "no weights" in doctor.check_model(model).text
    (model / "config.json").write_text(json.dumps(CONFIG | {"architectures": ["Other"]}))
    assert "Other" in doctor.check_model(model).remedy
    assert "--model-path" in doctor.check_model(tmp_path / "nowhere").remedy


def all_of(*group, count=4):
    """GPUs of which only those of `group` reach each other."""
    return [[i == j or {i, j} <= set(group) for j in range(count)] for i in range(count)]


@pytest.mark.parametrize(
    ("reach", "said"),
    [
        ([[True]], []),
        (all_of(0, 1, 2, 3), ["each block of 2 of 4 GPUs is connected"]),
        (
            [[(i + j) % 2 == 0 for j in range(4)] for i in range(4)],
            [
                "GPUs 0 and 1, of one block of 2, do not reach each other; "
                "CUDA_VISIBLE_DEVICES=0,2,1,3 is an order that works"
            ],
        ),
        (
            all_of(0, 1, 2),
            ["GPUs 2 and 3, of one block of 2, do not reach each other, in no order of the GPUs"],
        ),
    ],
)
def test_gpus_that_do_not_reach_each_other_are_named_with_an_order_that_works(reach, said):
    assert [finding.text for finding in doctor.check_peers(lambda: reach, 2)] == said


def test_a_machine_without_a_driver_has_nothing_to_say_of_gpus():
    def read():
        raise MemoryFault("no driver")

    assert doctor.check_peers(read, 2) == []
