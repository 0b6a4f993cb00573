"""How upstream puts new keys and values into a pool of tokens, computed by torch.

On a GPU its kernel ends the process at a slot that the pool has not by what it is told, and writes
nothing into slot 0, which is padding.
"""

from collections.abc import Callable
from typing import Any

from amoeba_sglang.planes.reference.calls import KernelRefusal, bind


class StoreCalls:
    """`real`: upstream's function that chooses a kernel, whose signature is held against."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self._real = real

    def store(self, *args: Any, **kwargs: Any) -> None:
        call = bind(self._real, args, kwargs)
        slots, limit, width = call["indices"], call["size_limit"], call["row_dim"]
        if len(slots) and not 0 <= int(slots.min()) <= int(slots.max()) < limit:
            raise KernelRefusal(f"store_cache: slots {slots.tolist()} of a pool of {limit}")
        for name, cache in (("k", call["k_cache"]), ("v", call["v_cache"])):
            rows, new = cache.view(-1, width), call[name].reshape(-1, width)
            if len(rows) > limit:
                raise KernelRefusal(f"store_cache: {len(rows)} slots, told of {limit}")
            mine = slots != 0
            rows[slots[mine].long()] = new[mine].to(rows.dtype)
