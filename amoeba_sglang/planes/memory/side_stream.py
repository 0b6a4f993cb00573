"""A GPU's copies beside its computation: a thread whose copies go to a CUDA stream of their own.

Not yet run on a GPU; tested through a stand-in for torch.cuda's streams.
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import torch


class SideStream(Executor):
    """The GPU's counterpart of the helper thread of a host, with the same order of events.

    What `submit` is given begins after all that the caller's stream has been given before, which
    may still use the memory that changes; its future is done when its copies are, so whoever has
    waited for that may launch kernels that use them on any stream. Between two copies that depend
    on what peers did, `act` itself synchronises its stream before it tells them.

    `device`: a GPU as PyTorch names it. `cuda` stands for torch.cuda.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda
        self._stream = cuda.Stream(device)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="amoeba-copies")

    def submit(self, act: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        before = self._cuda.Event()
        before.record(self._cuda.current_stream(self._device))

        def run() -> Any:
            # On the host, too: `act` unmaps, and the driver does not wait for kernels.
            before.synchronize()
            # A thread of its own has the default stream as its current one.
            with self._cuda.stream(self._stream):
                try:
                    return act(*args, **kwargs)
                finally:
                    self._stream.synchronize()

        return self._thread.submit(run)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._thread.shutdown(wait, cancel_futures=cancel_futures)
