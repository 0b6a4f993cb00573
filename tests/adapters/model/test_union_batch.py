"""The batch of an instance holds every row of its workers, at joint locations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from amoeba_sglang.adapters.model.union_batch import build_union
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.worker.mirror import RowMirror
from amoeba_sglang.control.worker.step_record import Row, StepRecord

CHAIN, SIZE = DegreeChain((1, 2, 4)), 50
# Tokens of a row after the step, and how many of them are new.
ROW = st.integers(1, 30).flatmap(lambda end: st.tuples(st.just(end), st.integers(1, end)))


def told(rows, page, seed):
    """What a worker says of rows (tokens, new ones), whose prefixes its peers know already, and the
    slots of each."""
    order = np.random.default_rng(seed).permutation(SIZE) + 1
    mirror, said, slots = RowMirror(), [], []
    for number, (end, new) in enumerate(rows):
        count = -(-end // page)
        mine = order[:count]
        known = (end - new) // page
        mirror.apply(number, 0, mine[:known])
        mirror.apply(number, known, mine[known:])
        said.append(Row(number, end, new, known, mine[known:]))
        slots.append(mine)
    extend = any(new > 1 for _, new in rows)
    record = StepRecord(1, 1, 0, -1, bool(rows), extend=extend, rows=tuple(said))
    return record, mirror, slots


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([2, 4]), st.sampled_from([1, 4]))
def test_every_new_token_is_computed_once_and_stored_where_its_home_says(data, degree, page):
    rows = [data.draw(st.lists(ROW, max_size=3)) for _ in range(degree)]
    parts = [told(mine, page, seed) for seed, mine in enumerate(rows)]
    records, mirrors, slots = (list(part) for part in zip(*parts, strict=True))
    union = build_union(records, mirrors, CHAIN, degree, size=SIZE, page=page, device="cpu")
    if not any(rows):
        assert union is None
        return
    assert union.tokens == [sum(new for _, new in mine) for mine in rows]
    where, positions, joint = [], [], []
    for worker, mine in enumerate(rows):
        for (end, new), own in zip(mine, slots[worker], strict=True):
            joint.append([int(CHAIN.joint_slots(degree, worker, slot)) for slot in own])
            for at in range(end - new, end):
                where.append(joint[-1][at // page] * page + at % page)
                positions.append(at)
    batch, flat = union.batch, [row for mine in rows for row in mine]
    assert [vector.tolist() for vector in union.slots] == joint
    assert batch.out_cache_loc.tolist() == where and batch.positions.tolist() == positions
    assert batch.seq_lens.tolist() == [end for end, _ in flat]
    assert batch.batch_size == len(flat) and len(batch.input_ids) == len(where)
    if all(new == 1 for _, new in flat):
        assert batch.forward_mode is ForwardMode.DECODE
        return
    assert batch.forward_mode is ForwardMode.EXTEND
    assert batch.extend_seq_lens.tolist() == batch.extend_seq_lens_cpu == [new for _, new in flat]
    assert batch.extend_prefix_lens.tolist() == [end - new for end, new in flat]
    starts = np.cumsum([0, *batch.extend_seq_lens_cpu])[:-1]
    assert batch.extend_start_loc.tolist() == starts.tolist()


def test_a_row_that_was_never_told_is_a_bug():
    record, _, _ = told([(3, 1)], 1, 0)
    with pytest.raises(KeyError):
        build_union(
            [record, record], [RowMirror(), RowMirror()], CHAIN, 2, size=SIZE, page=1, device="cpu"
        )
