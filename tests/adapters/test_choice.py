import pytest

from amoeba_sglang.adapters.choice import choose_backend
from amoeba_sglang.errors import ConfigError


def test_a_device_without_a_plane_is_refused_by_its_flag():
    with pytest.raises(ConfigError, match="--device xpu: Amoeba serves on cuda and on cpu"):
        choose_backend("xpu")


def test_a_cpu_server_follows_the_user_s_flags():
    backend = choose_backend("cpu", None)
    assert backend.own_tokens(4096, (1, 2)) == 4096 and backend.own_tokens(None, (1, 2)) is None
    assert (backend.dilation, backend.sentence, backend.description) == (1.0, "", None)
    assert backend.refusal(None) is None


@pytest.mark.parametrize(("chunk", "page"), [(None, 16), (-1, 16), (512, 16), (100, 1)])
def test_kv_pages_are_of_16_tokens_unless_chunks_of_prompts_are_no_multiple(chunk, page):
    assert choose_backend("cpu", None).kv_page(chunk) == page
