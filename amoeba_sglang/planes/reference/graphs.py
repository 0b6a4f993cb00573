"""Recorded graphs of the REFERENCE device: the same calls on the same memory, again.

A GPU replays kernels with the addresses that they were recorded with, whatever is there by then.
So what a graph reads and did not make itself must still be there at a replay: a tensor that
somebody keeps, or mapped memory of the driver. A read by the host cannot be recorded.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from amoeba_sglang.planes.reference.driver import Misuse, ReferenceDriver

_thread = threading.local()


@dataclass(frozen=True)
class Node:
    """A call that was recorded, and what came of it."""

    call: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    made: Any


class RecordedGraph:
    """recorded, replays: of all graphs of a process."""

    recorded = replays = 0

    def __init__(self, driver: ReferenceDriver) -> None:
        self._driver = driver
        self._nodes: list[Node] = []
        self._own: set[int] = set()
        # Of what others must keep: by storage a tensor, and how many the graph has of it.
        self._inputs: dict[int, torch.Tensor] = {}
        self._aliases: Counter[int] = Counter()

    @contextmanager
    def recording(self) -> Iterator[None]:
        assert recording() is None, "a graph within a graph"
        _thread.graph = self
        try:
            yield
        finally:
            _thread.graph = None
        RecordedGraph.recorded += 1

    def add(
        self, call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], made: Any
    ) -> None:
        if "_local_scalar_dense" in str(call):
            raise Misuse("the host reads what a graph computes while it is recorded")
        given = tree_map(self._take, (tuple(args), dict(kwargs)))
        self._nodes.append(Node(call, *given, made=tree_map(self._make, made)))

    def replay(self) -> None:
        for key, tensor in self._inputs.items():
            # One user more is the question itself.
            users = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata) - 1
            if users <= self._aliases[key]:
                reader = next(str(node.call) for node in self._nodes if _reads(node, key))
                raise Misuse(f"{reader} of a graph reads a {tuple(tensor.shape)} that is gone")
        for node in self._nodes:
            for tensor in _tensors_in((node.args, node.kwargs)):
                self._require_mapped(tensor)
            again = node.call(*node.args, **node.kwargs)
            for made, new in zip(_tensors_in(node.made), _tensors_in(again), strict=True):
                if made.data_ptr() != new.data_ptr():
                    made.copy_(new)
        RecordedGraph.replays += 1

    def _take(self, value: Any) -> Any:
        """An argument as it is kept: of another's tensor something that does not keep it alive."""
        if not isinstance(value, torch.Tensor) or key_of(value) in self._own:
            return value
        if self._driver.reserves(value.data_ptr()):
            return value
        alias = value.detach()
        self._inputs.setdefault(key_of(value), alias)
        self._aliases[key_of(value)] += 1
        return alias

    def _make(self, value: Any) -> Any:
        """A result as it is kept: memory of the graph, unless it came from outside."""
        if not isinstance(value, torch.Tensor):
            return value
        if key_of(value) not in self._inputs and not self._driver.reserves(value.data_ptr()):
            self._own.add(key_of(value))
        return self._take(value)

    def _require_mapped(self, tensor: torch.Tensor) -> None:
        start = tensor.data_ptr()
        if self._driver.reserves(start) and not self._driver.maps(start, tensor.nbytes):
            raise Misuse(f"a graph touches unmapped memory at {start:#x}, {tensor.nbytes} bytes")


def recording() -> RecordedGraph | None:
    """The graph that this thread's calls become a part of."""
    return getattr(_thread, "graph", None)


def whole(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same call, which a graph records as one: a kernel, whatever it is computed by."""

    def launch(*args: Any, **kwargs: Any) -> Any:
        graph = recording()
        if graph is None:
            return call(*args, **kwargs)
        _thread.graph = None
        try:
            made = call(*args, **kwargs)
        finally:
            _thread.graph = graph
        graph.add(call, args, kwargs, made)
        return made

    return launch


def _tensors_in(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _reads(node: Node, key: int) -> bool:
    return any(key_of(tensor) == key for tensor in _tensors_in((node.args, node.kwargs)))


def key_of(tensor: torch.Tensor) -> int:
    """Of its storage."""
    return tensor.untyped_storage()._cdata
