"""What a server on the REFERENCE device takes, and what it names."""

from types import SimpleNamespace

import pytest

from amoeba_sglang.adapters.choice import choose_backend
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.reference.device import device_of_process


def arguments(**given):
    return SimpleNamespace(**{"dtype": "auto", "page_size": None} | given)


@pytest.mark.parametrize("kind", ["sm90", "sm100"])
def test_it_says_that_nothing_of_it_is_a_figure(kind):
    backend = choose_backend("cpu", None, kind)
    assert backend.name == "reference" and backend.sentence.startswith(f"REFERENCE device {kind}")
    assert backend.device is device_of_process()
    assert backend.heads_first and backend.kv_page(8192) == 16
    backend.adjust(arguments())
    backend.adjust(arguments(dtype="bfloat16", page_size=64))


def test_a_gpu_whose_attention_is_not_there_is_refused_by_name():
    with pytest.raises(ConfigError, match="--amoeba-reference-device sm80: .* use sm90 or sm100"):
        choose_backend("cpu", None, "sm80")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"dtype": "float32"}, "--dtype float32: .* computes in bfloat16 or float16"),
        ({"page_size": 1}, "--page-size 1: .* has kernels for 16, 32, 64, 128"),
        ({"page_size": 48}, "--page-size 48: .* has kernels for 16, 32, 64, 128"),
    ],
)
def test_what_the_attention_of_the_gpu_does_not_have_is_refused(given, line):
    with pytest.raises(ConfigError, match=line):
        choose_backend("cpu", None, "sm90").adjust(arguments(**given))
