"""How workers share cores."""

from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.host.cores import cpu_bindings, threads_per_worker


def test_examples():
    assert cpu_bindings(1, [0, 1]) == "0-1"
    assert cpu_bindings(2, [0, 1]) == "0|1"
    assert cpu_bindings(4, [0, 1]) == "0|0|1|1"
    assert cpu_bindings(2, [0, 1, 2, 3]) == "0-1|2-3"
    assert cpu_bindings(2, [1, 3, 4, 9]) == "1,3|4,9"
    assert cpu_bindings(3, [0, 1, 2, 3]) == "0|1|2"


@given(st.integers(1, 32), st.sets(st.integers(0, 127), min_size=1, max_size=64))
def test_every_worker_gets_its_threads(workers, cores):
    groups = [expand(group) for group in cpu_bindings(workers, sorted(cores)).split("|")]
    assert len(groups) == workers
    assert all(len(group) == threads_per_worker(workers, len(cores)) for group in groups)
    assert set().union(*groups) <= cores
    if workers <= len(cores):
        assert len(set().union(*groups)) == sum(map(len, groups)), "a core is shared needlessly"


def expand(group: str) -> set[int]:
    cores: set[int] = set()
    for part in group.split(","):
        first, _, last = part.partition("-")
        cores |= set(range(int(first), int(last or first) + 1))
    return cores
