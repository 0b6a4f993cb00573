from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.layout.locations import slots_filled
from amoeba_sglang.control.shares.news import LIVE, NOBODY, SlotNews
from amoeba_sglang.control.worker.step_record import Row, StepRecord, require_agreement

words = st.integers(0, 2**40)
slots = st.lists(words, max_size=5).map(lambda values: np.array(values, np.int64))


@st.composite
def rows(draw):
    seq_len = draw(st.integers(1, 40))
    extend = draw(st.integers(1, seq_len))
    page = draw(st.sampled_from([1, 16]))
    known = draw(st.integers(0, (seq_len - extend) // page))
    count = slots_filled(seq_len, page) - known
    slots = draw(st.lists(words, min_size=count, max_size=count))
    return Row(draw(st.integers(0, 4096)), seq_len, extend, known, np.array(slots, np.int64))


news = st.builds(
    SlotNews,
    wanted=words,
    since=st.sampled_from([LIVE, 7, NOBODY]),
    lenders=st.integers(0, 64),
    lent=slots,
    returned=slots,
).flatmap(
    lambda one: st.lists(st.tuples(words, words), max_size=5).map(
        lambda moves: replace(
            one,
            moved_from=np.array([a for a, _ in moves], np.int64),
            moved_to=np.array([b for _, b in moves], np.int64),
        )
    )
)
records = st.builds(
    StepRecord,
    epoch=words,
    step=words,
    first_rank=st.integers(0, 64),
    boundary=st.integers(-1, 200),
    has_work=st.booleans(),
    order=words,
    extend=st.booleans(),
    scores_prompts=st.booleans(),
    rows=st.lists(rows(), max_size=5).map(tuple),
    dead_rows=st.lists(words, max_size=5).map(tuple),
    slots=news,
)


@given(records)
def test_decode_inverts_encode(record):
    again = StepRecord.decode(record.encode())
    for name in (
        "epoch",
        "step",
        "first_rank",
        "boundary",
        "has_work",
        "order",
        "extend",
        "scores_prompts",
    ):
        assert getattr(again, name) == getattr(record, name)
    for one in fields(SlotNews):
        np.testing.assert_array_equal(
            getattr(again.slots, one.name), getattr(record.slots, one.name)
        )
    assert again.dead_rows == record.dead_rows
    assert again.tokens == record.tokens
    assert len(again.rows) == len(record.rows)
    for ours, theirs in zip(again.rows, record.rows, strict=True):
        assert (ours.row, ours.seq_len, ours.extend_len, ours.known) == (
            theirs.row,
            theirs.seq_len,
            theirs.extend_len,
            theirs.known,
        )
        np.testing.assert_array_equal(ours.slots, theirs.slots)


@pytest.mark.parametrize("field", ["epoch", "step", "first_rank", "boundary"])
def test_a_worker_at_another_step_is_named_before_any_collective(field):
    one = {"epoch": 1, "step": 2, "first_rank": 0, "boundary": 7, "has_work": True}
    same = [StepRecord(**one), StepRecord(**one)]
    require_agreement(same)
    with pytest.raises(AssertionError, match="disagree"):
        require_agreement([same[0], StepRecord(**{**one, field: 5})])
