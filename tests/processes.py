"""Run one function in several real processes that share a torch.distributed (gloo) world."""

import datetime
import multiprocessing
import multiprocessing.connection
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

# A fork server that has imported torch once: a worker then starts in tens of milliseconds
# instead of two seconds, and does not inherit the threads and descriptors of pytest.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "torch.distributed", "numpy"])

_GRACE_S = 3.0


class WorkersFailed(AssertionError):
    """Some workers raised, died or were late; the text holds every traceback."""


def run_workers(
    n: int,
    target: Callable[..., Any],
    *args: Any,
    timeout_s: float = 240.0,
    may_die: tuple[int, ...] = (),
) -> list[Any]:
    """Call `target(rank, n, *args)` in `n` processes and return their results by rank.

    In each process the default torch.distributed group is a gloo world of size `n` on 127.0.0.1
    and torch uses one thread. `target` is a module-level function; `args` and results are pickled
    (results as plain values or numpy arrays: a tensor is shared memory that dies with its worker).
    Ranks in `may_die` may end without a result (None in the list); any
    other failure raises WorkersFailed. No process outlives the call.
    """
    with tempfile.TemporaryDirectory(prefix="amoeba-test-") as folder:
        store = os.path.join(folder, "store")
        processes, pipes = [], []
        try:
            for rank in range(n):
                pipe, child_pipe = _context.Pipe(duplex=False)
                process = _context.Process(
                    target=_work, args=(child_pipe, store, rank, n, timeout_s, target, args)
                )
                process.start()
                child_pipe.close()
                processes.append(process)
                pipes.append(pipe)
            return _collect(pipes, time.monotonic() + timeout_s, timeout_s, may_die)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
            for process in processes:
                process.join(10.0)
            for pipe in pipes:
                pipe.close()


def _collect(
    pipes: list[Any], deadline: float, timeout_s: float, may_die: tuple[int, ...]
) -> list[Any]:
    results: list[Any] = [None] * len(pipes)
    failures: dict[int, str] = {}
    waiting = dict(enumerate(pipes))
    while waiting and time.monotonic() < deadline:
        ready = multiprocessing.connection.wait(
            list(waiting.values()), max(0.0, deadline - time.monotonic())
        )
        for rank in [rank for rank, pipe in waiting.items() if pipe in ready]:
            try:
                ok, value = waiting.pop(rank).recv()
            except EOFError:
                if rank not in may_die:
                    failures[rank] = "died without a result"
            else:
                if ok:
                    results[rank] = value
                else:
                    failures[rank] = value
        if failures:  # the others probably wait for the failed one: no need to sit that out
            deadline = min(deadline, time.monotonic() + _GRACE_S)
    for rank in waiting:
        if rank not in may_die:
            failures[rank] = f"no result (limit {timeout_s} s, {_GRACE_S} s after a failure)"
    if failures:
        raise WorkersFailed(
            "\n".join(f"--- worker {rank} of {len(pipes)}: {failures[rank]}" for rank in failures)
        )
    return results


def _work(
    pipe: Any,
    store_path: str,
    rank: int,
    n: int,
    timeout_s: float,
    target: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    import torch
    import torch.distributed as dist

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    try:
        timeout = datetime.timedelta(seconds=timeout_s)
        store = dist.FileStore(store_path, n)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=n, timeout=timeout)
        # A target that ends at once must not take its connections from peers still connecting.
        store.set(f"ready {rank}", "")
        store.wait([f"ready {peer}" for peer in range(n)], timeout)
        message = ForkingPickler.dumps((True, target(rank, n, *args)))
    except BaseException:
        message = ForkingPickler.dumps((False, traceback.format_exc()))
    pipe.send_bytes(message)
    pipe.close()
    # Tearing a gloo group down waits for peers that a test may have killed or frozen.
    os._exit(0)
