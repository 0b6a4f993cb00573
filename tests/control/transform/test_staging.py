"""The largest exchange that a staging buffer holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.transform.staging import fit_exchange, require_staging
from amoeba_sglang.errors import ConfigError

COUNT = st.integers(1, 60)


@given(COUNT, COUNT, st.integers(1, 1000), st.integers(1, 40_000))
def test_it_fits_and_one_more_slot_or_layer_would_not(layers, slots, each, staging):
    if staging < each:
        with pytest.raises(ConfigError, match=f"one slot of one layer needs {each} bytes"):
            fit_exchange(layers, slots, each, staging)
        return
    found = fit_exchange(layers, slots, each, staging)
    assert 1 <= found.layers <= layers and 1 <= found.super_slots <= slots
    assert found.layers * found.super_slots * each <= staging
    # Slots first: many slots of few layers take fewer calls.
    assert found.super_slots == slots or (found.super_slots + 1) * each > staging
    assert found.layers == layers or (found.layers + 1) * found.super_slots * each > staging


def test_a_buffer_that_holds_a_slot_is_enough():
    require_staging(100, 100)
    with pytest.raises(ConfigError, match="--amoeba-staging-mib: a staging buffer of 99 bytes"):
        require_staging(100, 99)
