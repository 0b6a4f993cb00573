"""How the workers of one host share its cores."""


def threads_per_worker(workers: int, cores: int) -> int:
    """Torch threads for each of `workers` processes on `cores` cores: the launcher sets
    OMP_NUM_THREADS to it.
    """
    assert min(workers, cores) > 0, (workers, cores)
    return max(1, cores // workers)


def cpu_bindings(workers: int, cores: list[int]) -> str:
    """Value of SGLANG_CPU_OMP_THREADS_BIND for `workers` processes, e.g. "0-1|2-3".

    Each worker gets a run of `threads_per_worker` neighbouring cores of `cores`; with more workers
    than cores, neighbours share one ("0|0|1|1"). SGLang refuses to start more workers than NUMA
    nodes without this value. Without its AMX library it only checks it and pins nothing: torch
    threads float, so OMP_NUM_THREADS is what limits them.
    """
    count = threads_per_worker(workers, len(cores))
    groups = []
    for worker in range(workers):
        first = worker * len(cores) // workers
        group = cores[first : first + count]
        groups.append(_ranges(group))
    return "|".join(groups)


def _ranges(cores: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2,5"."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
