"""FlashAttention 3 for a process without a GPU, in which SGLang's kernel library cannot load.

SGLang's module for it imports the library by name. While it does, it finds functions that check
every call against the installed library (planes/reference) and compute it by torch.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from amoeba_sglang.planes.reference.calls import read_function
from amoeba_sglang.planes.reference.fa3_calls import Fa3Calls
from amoeba_sglang.planes.reference.graphs import whole

_LIBRARY, _PART = "sgl_kernel", "sgl_kernel.flash_attn"
_ATTEND, _PLAN = "flash_attn_with_kvcache", "get_scheduler_metadata"


def make_fa3(model_runner: Any) -> Any:
    """Upstream's `fa3` with calls that are computed on the host."""
    file = _installed()
    calls = Fa3Calls(read_function(file, _ATTEND), read_function(file, _PLAN))
    with _library(calls):
        from sglang.srt.layers.attention import flashattention_backend

        from amoeba_sglang.adapters.cuda.fa3_attention import Fa3Attention

        flashattention_backend.flash_attn_with_kvcache = whole(calls.with_kvcache)
        return Fa3Attention(model_runner)


def _installed() -> Path:
    """The file of the library that has the calls; finding it does not import it."""
    spec = importlib.util.find_spec(_LIBRARY)
    assert spec is not None and spec.submodule_search_locations, "sglang brings its kernel library"
    return Path(spec.submodule_search_locations[0]) / "flash_attn.py"


@contextmanager
def _library(calls: Fa3Calls) -> Iterator[None]:
    """The library as modules that have what SGLang asks of it here."""
    library, part = ModuleType(_LIBRARY), ModuleType(_PART)
    library.merge_state_v2 = None
    part.flash_attn_with_kvcache = calls.with_kvcache
    part.flash_attn_varlen_func, part.get_scheduler_metadata = None, calls.plan
    before = {name: sys.modules.get(name) for name in (_LIBRARY, _PART)}
    sys.modules |= {_LIBRARY: library, _PART: part}
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
