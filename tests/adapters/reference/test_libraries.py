"""What SGLang's modules are given in a process that stands for a GPU."""

from unittest.mock import patch

from sglang.srt.mem_cache import kv_index_translator

from amoeba_sglang.adapters.reference.libraries import OneAtATime, triton_names
from amoeba_sglang.planes.reference.device import INTERPRETER


def test_a_kernel_is_locked_once_however_often_it_is_given():
    """It was locked again by the next backend of the process, and would have waited for itself."""
    with patch.multiple(kv_index_translator, **triton_names()[kv_index_translator]):
        [again] = triton_names()[kv_index_translator].values()
    assert isinstance(again, OneAtATime) and not isinstance(again._kernel, OneAtATime)


def test_a_launch_holds_the_interpreter():
    class Kernel:
        def __getitem__(self, grid):
            return lambda: (grid, INTERPRETER.locked())

    assert OneAtATime(Kernel())[3, 4]() == ((3, 4), True)
    assert not INTERPRETER.locked()
