"""Sees which of a process's tensor operations touch memory of the REFERENCE device."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from amoeba_sglang.planes.reference.driver import ReferenceDriver
from amoeba_sglang.planes.reference.graphs import recording
from amoeba_sglang.planes.reference.streams import Streams, Touch


class Recorder(TorchDispatchMode):
    """While it is entered, each operation of this thread is a kernel on its current stream."""

    def __init__(self, driver: ReferenceDriver, streams: Streams) -> None:
        super().__init__()
        self._driver, self._streams = driver, streams

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # A view computes nothing.
        if not func.is_view:
            declared = func._schema.arguments
            named = {argument.name: argument for argument in declared}
            given = [*zip(declared, args, strict=False)]
            given += [(named[name], value) for name, value in (kwargs or {}).items()]
            touches = [touch for pair in given for touch in self._touches(*pair)]
            if touches:
                self._streams.launch(str(func), touches)
        made = func(*args, **(kwargs or {}))
        graph = recording()
        if graph is not None and not func.is_view:
            graph.add(func, args, kwargs or {}, made)
        return made

    def _touches(self, argument: Any, value: Any) -> Iterator[Touch]:
        if isinstance(value, (list, tuple)):
            for one in value:
                yield from self._touches(argument, one)
        elif isinstance(value, torch.Tensor) and value.numel():
            start = value.data_ptr()
            if self._driver.reserves(start):
                last = sum(
                    (n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True)
                )
                alias = argument.alias_info
                writes = alias is not None and alias.is_write
                yield Touch(start, start + (last + 1) * value.itemsize, writes)
