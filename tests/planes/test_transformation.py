"""Whole transformations of a block of workers at every pace, with and without a fault at one."""

import time
from types import SimpleNamespace

import pytest

from amoeba_sglang.adapters.messages import TransformOrder
from amoeba_sglang.planes.transformation import Transformation
from tests.elastic_workers import CHAIN, LAYERS
from tests.planes.members import mapping_fails, move_fails, walk

ONES, PAIRS, MIXED, FOUR = (1,) * 4, (2,) * 4, (2, 2, 1, 1), (4,) * 4
FOREVER = 1 << 30


PATHS = {
    "all at once": [(ONES, FOUR), (FOUR, ONES)],
    "step by step": [(ONES, MIXED), (MIXED, FOUR), (FOUR, PAIRS), (PAIRS, ONES)],
    "beside an instance that stays": [(ONES, MIXED), (MIXED, PAIRS), (PAIRS, MIXED), (MIXED, ONES)],
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("pace", (0, 1, None))
def test_kv_and_weights_are_where_the_boundary_says_after_every_move(path, pace):
    results = walk([(*step, pace, None, None) for step in path])
    for rank, by_step in enumerate(results):
        for (before, after), (report, boundaries, wrong) in zip(path, by_step, strict=True):
            assert (report.error, wrong) == ("", [])
            assert report.moves == len(boundaries) - 1, boundaries
            order = list(range(LAYERS + 1))
            if after > before:
                order.reverse()
            assert boundaries == (order if pace == 1 else [b for b in order if b in boundaries])
            assert (boundaries[0], boundaries[-1]) == (order[0], order[-1])
            assert (report.weight_bytes > 0) == (after[rank] < before[rank])
    for number in range(len(path)):
        assert any(by_step[number][0].kv_bytes for by_step in results)


def test_every_way_to_cut_a_transformation_moves_the_same_bytes():
    moved = [
        [(report.kv_bytes, report.weight_bytes) for report, _, _ in by_step]
        for pace in (0, 1)
        for by_step in walk([(*step, pace, None, None) for step in PATHS["all at once"]])
    ]
    assert moved[: CHAIN.finest] == moved[CHAIN.finest :]


@pytest.mark.parametrize(("name", "pace"), [("all at once", 0), *((name, 1) for name in PATHS)])
def test_a_fault_anywhere_turns_the_boundary_round_and_the_next_try_succeeds(name, pace):
    """The fault comes at every mapping in turn, so b turns round wherever one can fail."""
    path, turned = PATHS[name], set()
    for number, (before, after) in enumerate(path):
        # A worker whose degree stays maps nothing, so it cannot fail.
        victim = next(r for r in (3 - number, 0, 3) if before[r] != after[r])
        for maps in range(FOREVER):
            steps = [(*step, pace, None, None) for step in path[:number]]
            by_worker = walk([*steps, (before, after, pace, victim, mapping_fails(maps))])
            if not any(by_step[number][0].error for by_step in by_worker):
                break
            for rank, by_step in enumerate(by_worker):
                (failed, boundaries, wrong), (again, _, wrong_again) = by_step[-2:]
                assert wrong == wrong_again == [] and again.error == ""
                others = f"ranks [{victim}] ran into a memory fault"
                assert failed.error == ("no more mappings" if rank == victim else others)
                assert boundaries[-1] == boundaries[0]
                turned.add((number, min(boundaries), max(boundaries)))
        else:
            raise AssertionError("the faults never end")
        assert maps > 0
    # Merges can fail only when the pool grows at the end, splits at every b.
    assert len(turned) >= len(path) + (LAYERS - 1 if pace else 0)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_from_every_boundary_the_layers_that_moved_go_back(path):
    """In both directions; a merge of a real system has nothing that fails in its middle."""
    for number, (before, after) in enumerate(path):
        victim = next(r for r in (number, 0, 3) if before[r] != after[r])
        order = list(range(LAYERS + 1))
        if after > before:
            order.reverse()
        for moved in range(LAYERS):
            steps = [(*step, 1, None, None) for step in path[:number]]
            for by_step in walk([*steps, (before, after, 1, victim, move_fails(moved))]):
                (failed, boundaries, wrong), (again, _, wrong_again) = by_step[-2:]
                assert failed.error and not again.error
                assert wrong == wrong_again == []
                assert boundaries == order[: moved + 1] + order[:moved][::-1]


def test_a_block_that_mixes_up_two_orders_stops_before_it_moves_anything():
    order = TransformOrder(
        phase="commit", operation_id="op", epoch=3, ranks=[0, 1], before=[1, 1], after=[2, 2]
    )
    block = SimpleNamespace(exchange=lambda words: [words, words + 1])
    with pytest.raises(AssertionError, match=r"\[0, 1\] entered with epochs \[3, 4\]"):
        Transformation(
            order,
            CHAIN,
            0,
            plane=SimpleNamespace(executor=SimpleNamespace(layers=[])),
            block=block,
            moving=None,
            pace=None,
            plain_seconds=0.0,
            helper=None,
            now=time.monotonic,
        ).enter()
