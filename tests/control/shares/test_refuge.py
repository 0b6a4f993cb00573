"""Which slots stay through a change, and where the tokens on the others go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.shares.refuge import Refuge, kept_width

counts = st.integers(0, 100)


@pytest.mark.parametrize("degrees", [(1, 2, 4), (1, 2, 6, 12)])
def test_slots_that_stay_are_in_the_anchors_instance_before_and_after(degrees):
    chain = DegreeChain(degrees)
    for before in degrees:
        for after in degrees:
            for anchor in range(0, chain.finest, before):
                kept = range(anchor, anchor + kept_width(before, after, anchor))
                first = anchor // after * after
                assert kept[-1] < anchor + before and kept[-1] < first + after
                # Only the first worker of an instance leases.
                assert len(kept) == 1 or anchor == first


@given(counts, counts, st.integers(-50, 100), counts)
def test_every_stray_token_has_a_place_unless_slots_are_lacking(strays, coming, own, leased):
    refuge = Refuge.find(strays, coming, own, leased)
    assert refuge.own + refuge.leased == strays
    assert 0 <= refuge.own <= max(0, own)
    # Own slots first: leases are for what comes, since short requests cannot take them.
    assert refuge.leased == 0 or refuge.own == max(0, own)
    if refuge.lacking:
        assert refuge.leased + coming == leased + refuge.lacking
    else:
        assert refuge.leased + coming <= leased
