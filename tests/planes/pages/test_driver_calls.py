"""What the plan says of a GPU's driver is what changes of degree ask of it."""

import pytest
import torch

from amoeba_sglang.control.layout.capacity import driver_calls
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.planes.pages.page_exchange import PageExchange
from amoeba_sglang.planes.pages.ranges import KVRanges
from amoeba_sglang.planes.pages.weight_store import WeightStore
from amoeba_sglang.planes.reference.device import GRANULARITY, ReferenceDevice

LAYERS = 3
PAGES = WeightPages(DegreeChain((1, 2, 4)), GRANULARITY, ((600_000, 300_000),) * LAYERS)


@pytest.mark.parametrize(("low", "high"), [(1, 2), (1, 4), (2, 4)])
def test_a_merge_and_its_split_map_as_many_pages_as_planned(low, high):
    device = ReferenceDevice()
    memory = device.memory(GRANULARITY)
    store = WeightStore(memory, PAGES, 0)
    for number, size in enumerate(PAGES.matrices):
        store.shards(number, (size // 4,), torch.uint8)
    ranges = KVRanges(memory, LAYERS, base_rows=9, row_bytes=4096, most_grown=1 << 20)
    assert device.driver.counts["cuMemCreate"] == PAGES.total_pages + 2 * LAYERS
    peers = {index: memory.open_peer(memory.export()) for index in (1, 2, 3)}
    exchange = PageExchange(ranges, store, peers)

    def change(degree):
        before = calls()
        exchange.shrink()
        exchange.move_layers(range(LAYERS), degree)
        exchange.grow(degree)
        return calls() - before

    def calls():
        counts = device.driver.counts
        return counts["cuMemMap"] + counts["cuMemUnmap"]

    if low > 1:
        change(low)
    planned = driver_calls(PAGES, low, high, LAYERS)
    assert planned > 0 and [change(high), change(low)] == [planned, planned]
    for peer in peers.values():
        peer.close()
