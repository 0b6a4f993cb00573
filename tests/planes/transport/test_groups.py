"""Both groups against plain arithmetic on data that every rank can recompute."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from amoeba_sglang.planes.transport import GlooGroup, HostGroup, TransportGroup, create_group
from tests.processes import run_workers

_CAPACITY = 8192
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _tensor(seed: int, rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    return torch.randn(shape, generator=generator).to(dtype)


def _record(seed: int, rank: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, rank]).integers(-(2**63), 2**63 - 1, length)


def _bits_everywhere(x: torch.Tensor) -> list[bytes]:
    everywhere: list = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, x.contiguous().view(torch.uint8).numpy().tobytes())
    return everywhere


def _check_sum(group: TransportGroup, seed: int, shape: tuple[int, ...], dtype: torch.dtype):
    parts = [_tensor(seed, rank, shape, dtype) for rank in range(group.size)]
    x = parts[group.rank].clone()
    result = group.all_reduce(x)
    assert result is x
    exact = torch.stack([part.double() for part in parts]).sum(0)
    # Every addition rounds once, to a value whose size the absolute sum bounds.
    bound = torch.stack([part.double().abs() for part in parts]).sum(0)
    error = (x.double() - exact).abs()
    assert (error <= (group.size - 1) * torch.finfo(dtype).eps * bound).all(), (shape, dtype)
    if x.numel():
        assert len(set(_bits_everywhere(x))) == 1, (shape, dtype)


def _check_gathers(group: TransportGroup, seed: int, shape: tuple[int, ...], dtype: torch.dtype):
    parts = [_tensor(seed, rank, shape, dtype) for rank in range(group.size)]
    for dim in range(-1, len(shape)):
        assert torch.equal(group.all_gather(parts[group.rank], dim), torch.cat(parts, dim))
    rows = [(shape[0] * rank + seed) % (shape[0] + 1) for rank in range(group.size)]
    uneven = [part[:count] for part, count in zip(parts, rows, strict=True)]
    assert torch.equal(group.all_gather_rows(uneven[group.rank], rows), torch.cat(uneven))


def _check_exchange(group: TransportGroup, seed: int, lengths: list[int]):
    records = [_record(seed, rank, length) for rank, length in enumerate(lengths)]
    received = group.exchange(records[group.rank])
    assert len(received) == group.size
    for mine, theirs in zip(received, records, strict=True):
        assert mine.dtype == np.int64
        assert np.array_equal(mine, theirs)


def _check_all(rank: int, n: int, kind: type[TransportGroup]) -> int:
    group = (
        HostGroup.create(dist.group.WORLD, capacity_bytes=_CAPACITY)
        if kind is HostGroup
        else GlooGroup(dist.group.WORLD)
    )
    assert (group.rank, group.size) == (rank, n)
    checks = 0
    full = _CAPACITY // 4
    shapes = [(0, 3), (1,), (7,), (3, 5, 7), (full,), (full + 1,), (5 * full - 1,), (41, 576)]
    for seed, shape in enumerate(shapes):
        for dtype in _DTYPES:
            _check_sum(group, seed, shape, dtype)
            _check_gathers(group, seed, shape, dtype)
            checks += 1
    room = _CAPACITY // 8 - 1
    for seed, length in enumerate([0, 1, 50, room - 1, room, room + 1, 2 * room + 1, 5000]):
        _check_exchange(group, seed, [length] * n)
        _check_exchange(group, seed, [length * (rank % 2) for rank in range(n)])
        checks += 1
    flags = torch.tensor([rank == 0, rank == 1])
    assert group.all_gather(flags).view(n, 2).int().sum() == min(n, 2)
    assert torch.equal(group.all_gather_rows(flags[:0], [0] * n), flags[:0])
    _check_strided(group)
    _check_inference_mode(group)
    _check_results_are_private(group)
    group.close()
    group.close()
    return checks


def _check_strided(group: TransportGroup):
    for width in (5, _CAPACITY):
        base = torch.zeros(6, width)
        base[::2] = group.rank + 1
        group.all_reduce(base[::2])
        total = group.size * (group.size + 1) / 2
        assert (base[::2] == total).all()
        assert not base[1::2].any()


def _check_inference_mode(group: TransportGroup):
    # The model runs in inference mode, other callers do not, and both meet the same cached views.
    for inference in (True, False, True):
        with torch.inference_mode(inference):
            assert group.all_reduce(torch.ones(11)).tolist() == [group.size] * 11
            assert group.all_gather(torch.ones(11)).tolist() == [1] * 11 * group.size


def _check_results_are_private(group: TransportGroup):
    gathered = group.all_gather(torch.full((9,), group.rank))
    rows = group.all_gather_rows(torch.full((9,), group.rank), [9] * group.size)
    records = group.exchange(np.full(9, group.rank))
    for _ in range(4):
        group.all_gather(torch.full((9,), -1))
        group.exchange(np.full(9, -1))
    expected = torch.arange(group.size).repeat_interleave(9)
    assert torch.equal(gathered, expected)
    assert torch.equal(rows, expected)
    assert np.array_equal(np.concatenate(records), expected.numpy())


@pytest.mark.parametrize("kind", [HostGroup, GlooGroup])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_operations(n: int, kind: type[TransportGroup]):
    assert run_workers(n, _check_all, kind) == [8 * len(_DTYPES) + 8] * n


def _check_large_sums(rank: int, n: int) -> int:
    group = HostGroup.create(dist.group.WORLD)
    for seed, numel in enumerate([(256 << 10) // 4 + 1, (1 << 20) // 4, 3 * (1 << 20) // 4 + 5]):
        _check_sum(group, seed, (numel,), torch.float32)
        _check_sum(group, seed, (2, numel), torch.bfloat16)
    group.close()
    return 6


@pytest.mark.parametrize("n", [2, 3, 4])
def test_large_sums_at_the_default_capacity(n: int):
    assert run_workers(n, _check_large_sums) == [6] * n


def _mix(rank: int, n: int, steps: int) -> int:
    group = HostGroup.create(dist.group.WORLD, capacity_bytes=_CAPACITY)
    random = np.random.default_rng(5)
    for step in range(steps):
        operation = random.integers(5)
        size = int(random.choice([0, 1, 17, 500, 2048, 5000]))
        if operation == 0:
            group.barrier()
        elif operation == 1:
            x = torch.arange(size, dtype=torch.float32) + rank * step
            expected = torch.arange(size) * n + step * n * (n - 1) // 2
            assert torch.equal(group.all_reduce(x), expected.float()), step
        elif operation == 2:
            x = torch.full((2, size), rank + step)
            expected = torch.arange(step, step + n).repeat_interleave(size).expand(2, -1)
            assert torch.equal(group.all_gather(x, 1), expected), step
        elif operation == 3:
            rows = random.integers(0, 6, n).tolist()
            x = torch.full((rows[rank], size), rank + step)
            expected = torch.arange(step, step + n).repeat_interleave(torch.tensor(rows))
            gathered = group.all_gather_rows(x, rows)
            assert torch.equal(gathered, expected[:, None].expand(-1, size)), step
        else:
            lengths = (random.integers(0, 2, n) * size).tolist()
            _check_exchange(group, step, lengths)
    group.close()
    return steps


@pytest.mark.parametrize("n", [2, 4])
def test_long_random_sequences(n: int):
    assert run_workers(n, _mix, 2000) == [2000] * n


def _meet_in_halves(rank: int, n: int) -> list[float]:
    halves = [dist.new_group([0, 1], backend="gloo"), dist.new_group([2, 3], backend="gloo")]
    sums = []
    for kind in ("peer", "collective"):
        pair = create_group(kind, halves[rank // 2])
        block = create_group(kind, dist.group.WORLD)
        x = torch.tensor([float(10**rank)])
        sums += [pair.all_reduce(x.clone()).item(), block.all_reduce(x.clone()).item()]
        pair.close()
        block.close()
    return sums


def test_groups_of_parts_of_the_world():
    low, high = [11.0, 1111.0] * 2, [1100.0, 1111.0] * 2
    assert run_workers(4, _meet_in_halves) == [low, low, high, high]


def _meet_past_the_last_number(rank: int, n: int) -> list[float]:
    group = HostGroup.create(dist.group.WORLD)
    group._rendezvous._number = 2**32 - 4
    return [group.all_reduce(torch.ones(3)).sum().item() for _ in range(8)]


def test_meeting_numbers_wrap():
    assert run_workers(2, _meet_past_the_last_number) == [[6.0] * 8] * 2
