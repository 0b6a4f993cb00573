"""Sees which of a process's tensor operations touch memory of the REFERENCE device."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amoeba_sglang.planes.reference.driver import ReferenceDriver
from amoeba_sglang.planes.reference.graphs import key_of, recording
from amoeba_sglang.planes.reference.streams import Streams, Touch


class Recorder(TorchDispatchMode):
    """While it is entered, each operation of this thread is a kernel on its current stream."""

    def __init__(self, driver: ReferenceDriver, streams: Streams) -> None:
        super().__init__()
        self._driver, self._streams = driver, streams

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.is_view:
            made = func(*args, **kwargs)
            # `contiguous` and its like say that they are views, and copy if they must.
            if _storages(made) <= _storages((args, kwargs)):
                return made
            self._launch(func, args, kwargs)
        else:
            self._launch(func, args, kwargs)
            made = func(*args, **kwargs)
        graph = recording()
        if graph is not None:
            graph.add(func, args, kwargs, made)
        return made

    def _launch(self, func: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
        declared = func._schema.arguments
        named = {argument.name: argument for argument in declared}
        given = [*zip(declared, args, strict=False)]
        given += [(named[name], value) for name, value in kwargs.items()]
        touches = [touch for pair in given for touch in self._touches(*pair)]
        if touches:
            self._streams.launch(str(func), touches)

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


def _storages(value: Any) -> set[int]:
    return {key_of(leaf) for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)}
