from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.planes.pages.page_exchange import describe_waste

LAYERS = 30
# gate_up and down of the bundled model in fp32.
MATRICES = ((2 * 1536 * 576 * 4, 1536 * 576 * 4),) * LAYERS


def waste(page_kib):
    pages = WeightPages(DegreeChain((1, 2, 4)), page_kib << 10, MATRICES)
    return describe_waste(pages, LAYERS, 4096)


def test_pages_that_waste_little_are_not_mentioned():
    assert waste(64) is None


def test_large_pages_for_a_small_model_are_named_with_what_they_waste_and_better_ones():
    line = waste(2048)
    assert "--amoeba-page-size-kib 2048: 100%" in line
    better = int(line.rsplit(" ", 1)[1])
    assert waste(better) is None
    assert waste(2 * better) is not None
