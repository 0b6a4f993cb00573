"""K and V of a layer in one range of addresses."""

import pytest
import torch

from amoeba_sglang.planes.memory.host import HostMemory
from amoeba_sglang.planes.pages.ranges import KVRanges

PAGE = 65536


@pytest.mark.parametrize("row_bytes", [64, 6144, 3 * 5 * 7 * 16, 2 * PAGE + 48])
def test_v_lies_whole_rows_behind_k_and_leaves_room_for_growth(row_bytes):
    memory = HostMemory(PAGE)
    ranges = KVRanges(memory, 2, 11, row_bytes, most_grown=3 * PAGE + 1)
    assert ranges.distance % row_bytes == ranges.distance % PAGE == 0
    assert ranges.distance >= ranges.base_pages * PAGE + 3 * PAGE
    for layer in range(2):
        key, value = ranges.layer(layer, (11, row_bytes), torch.uint8)
        assert value.data_ptr() - key.data_ptr() == ranges.distance
        key.fill_(1 + layer)
        value.fill_(11 + layer)
    spare = memory.create(3 * 4)
    ranges.grow(spare)
    rows = ranges.rows
    for layer in range(2):
        key, value = ranges.layer(layer, (rows, row_bytes), torch.uint8)
        assert (key[:11] == 1 + layer).all() and (value[:11] == 11 + layer).all()
        key[11:].fill_(21)
        value[11:].fill_(22)
        assert (value[:11] == 11 + layer).all()
    ranges.shrink()
    memory.close()
