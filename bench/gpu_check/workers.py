"""Processes that share the GPU, and answer questions in step."""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import BrokenBarrierError
from typing import Any

from amoeba_sglang.planes.memory.base import AddressRange, Memory, MemoryHandle

START_S, ANSWER_S = 90.0, 60.0


@dataclass(frozen=True)
class Shape:
    """Of a pool: `slots` beside the padding, units of `unit_bytes`, memory in `page_bytes`."""

    layers: int
    slots: int
    unit_bytes: int
    page_bytes: int


class Group:
    """The part of a TransportGroup that a mover uses."""

    def __init__(self, rank: int, size: int, barrier: Any) -> None:
        self.rank, self.size, self._barrier = rank, size, barrier

    def barrier(self) -> None:
        try:
            self._barrier.wait(ANSWER_S)
        except BrokenBarrierError:
            raise AssertionError(f"not all workers came within {ANSWER_S:.0f} s") from None


class Workers:
    """`count` processes; each has the object that `make(group, *args)` returns, and calls what it
    is asked for."""

    def __init__(self, count: int, make: Callable[..., Any], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        # Kept: a barrier that nobody refers to is gone before the processes have found it.
        self._barrier = barrier = context.Barrier(count)
        pairs = [context.Pipe() for _ in range(count)]
        self._pipes = [ours for ours, _ in pairs]
        self._processes = [
            context.Process(
                target=_run, args=(Group(rank, count, barrier), theirs, make, args), daemon=True
            )
            for rank, (_, theirs) in enumerate(pairs)
        ]
        for process, (_, theirs) in zip(self._processes, pairs, strict=True):
            process.start()
            theirs.close()

    def __enter__(self) -> "Workers":
        for rank in range(len(self._pipes)):
            self._hear(rank, START_S)
        return self

    def __exit__(self, *error: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(5.0)
            if process.exitcode is None:
                process.kill()
                process.join()

    def ask(self, what: str, *args: Any) -> list[Any]:
        """The answers of all, by rank."""
        for pipe in self._pipes:
            pipe.send((what, args))
        return [self._hear(rank, ANSWER_S) for rank in range(len(self._pipes))]

    def _hear(self, rank: int, seconds: float) -> Any:
        assert self._pipes[rank].poll(seconds), f"worker {rank} is silent for {seconds:.0f} s"
        try:
            answer = self._pipes[rank].recv()
        except EOFError:
            raise AssertionError(f"worker {rank} has ended") from None
        if isinstance(answer, _Problem):
            raise AssertionError(answer.text)
        return answer


def open_peers(
    group: Group, memory: Memory, handles: Sequence[MemoryHandle], writable: bool = False
) -> dict[int, AddressRange]:
    """The memory of the others, by rank. `handles`: of all."""
    return {
        rank: memory.open_peer(handle, writable)
        for rank, handle in enumerate(handles)
        if rank != group.rank
    }


@dataclass(frozen=True)
class _Problem:
    text: str


def _run(group: Group, pipe: Connection, make: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        found = make(group, *args)
        pipe.send(None)
        while True:
            what, given = pipe.recv()
            pipe.send(getattr(found, what)(*given))
    except EOFError:
        return
    except Exception as error:
        pipe.send(_Problem(f"worker {group.rank}: {type(error).__name__}: {error}"))
