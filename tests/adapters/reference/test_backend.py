"""What a server on the REFERENCE device takes, and what it names."""

from types import SimpleNamespace

import pytest

from amoeba_sglang.adapters.choice import choose_backend
from amoeba_sglang.config import GpuChoice
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.reference.device import device_of_process


def arguments(**given):
    return SimpleNamespace(**{"dtype": "auto", "page_size": None} | given)


XQA, FA3 = GpuChoice("sm90", "trtllm_mha"), GpuChoice("sm90", "fa3")


@pytest.mark.parametrize("kind", ["sm90", "sm100"])
def test_it_says_that_nothing_of_it_is_a_figure(kind):
    backend = choose_backend("cpu", None, GpuChoice(kind, "trtllm_mha"))
    assert backend.name == "reference"
    assert backend.sentence.startswith(f"REFERENCE device {kind} by trtllm_mha")
    assert backend.device is device_of_process()
    assert backend.kv_layout(16) == "hnd" and backend.kv_page(8192) == 16
    backend.adjust(arguments())
    backend.adjust(arguments(dtype="bfloat16", page_size=64))


def test_a_host_cannot_stand_for_a_gpu_and_emulate_one():
    with pytest.raises(ConfigError, match="--amoeba-emulate: .* without --amoeba-reference-device"):
        choose_backend("cpu", object(), XQA)


def test_upstream_s_own_layout_has_pages_of_a_token():
    backend = choose_backend("cpu", None, GpuChoice("sm80", "triton"))
    assert backend.kv_layout(1) == "nhd" and backend.kv_page(8192) == 1
    backend.adjust(arguments(dtype="float32", page_size=1))
    with pytest.raises(ConfigError, match="--page-size 16: .* sm80 takes 1"):
        backend.adjust(arguments(dtype="float32", page_size=16))


def test_flash_attention_has_pages_of_one_and_of_many_tokens():
    backend = choose_backend("cpu", None, FA3)
    assert backend.kv_page(8192) == 16
    for page, layout in ((1, "nhd"), (16, "hnd"), (64, "hnd")):
        assert backend.kv_layout(page) == layout
        backend.adjust(arguments(page_size=page))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"dtype": "float32"}, "--dtype float32: trtllm_mha on sm90 takes auto, bfloat16"),
        ({"page_size": 1}, "--page-size 1: .* takes 16, 32, 64, 128"),
        ({"page_size": 48}, "--page-size 48: .* takes 16, 32, 64, 128"),
    ],
)
def test_what_the_attention_of_the_gpu_does_not_have_is_refused(given, line):
    with pytest.raises(ConfigError, match=line):
        choose_backend("cpu", None, XQA).adjust(arguments(**given))
