import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.layout.expert_order import ExpertLoads, balance
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.errors import ConfigError

CHAINS = [DegreeChain(degrees) for degrees in [(1, 2), (1, 2, 4), (1, 2, 4, 8), (1, 4), (1, 3, 6)]]


def imbalance(loads, order, degree):
    """Load of the busiest shard of `degree` over the mean of all; 1 if there is no load."""
    size = len(order) // degree
    shares = [
        sum(loads[expert] for expert in order[first : first + size])
        for first in range(0, len(order), size)
    ]
    return max(shares) * degree / sum(shares) if sum(shares) else 1.0


@given(st.data(), st.sampled_from(CHAINS))
def test_every_expert_once_and_no_shard_worse_than_its_heaviest_expert_explains(data, chain):
    count = chain.finest * data.draw(st.integers(1, 4))
    loads = data.draw(st.lists(st.integers(0, 1000), min_size=count, max_size=count))
    order = balance(loads, chain)
    assert sorted(order) == list(range(count))
    for lower, higher in zip(chain.degrees, chain.degrees[1:], strict=False):
        # What the parts of one range have differs by less than its heaviest expert.
        size = count // lower
        for first in range(0, count, size):
            whole = order[first : first + size]
            parts = np.array([loads[e] for e in whole]).reshape(higher // lower, -1).sum(1)
            assert parts.max() - parts.min() <= max(loads[e] for e in whole)


def test_equal_loads_keep_halves_of_equal_size():
    assert balance([1.0] * 8, DegreeChain((1, 2, 4))) == [0, 4, 2, 6, 1, 5, 3, 7]


@pytest.mark.parametrize(("degree", "as_loaded", "balanced"), [(2, 1.1, 1.01), (4, 1.3, 1.05)])
def test_a_few_hot_experts_are_spread(degree, as_loaded, balanced):
    """Loads by the law of Zipf over 128 experts, in random order."""
    rng = np.random.default_rng(2)
    loads = rng.permutation(1 / np.arange(1, 129))
    before = imbalance(loads, range(128), degree)
    after = imbalance(loads, balance(loads, DegreeChain((1, 2, 4, 8))), degree)
    assert before > as_loaded and after < balanced


def test_without_any_load_nothing_is_out_of_balance():
    assert imbalance([0.0] * 4, [3, 1, 2, 0], 2) == 1.0


def test_loads_are_read_as_they_were_written():
    loads = ExpertLoads(((1, 5, 0, 2), (3, 3, 3, 3)))
    assert ExpertLoads.from_json(loads.to_json()) == loads
    assert loads.orders(DegreeChain((1, 2))) == ((1, 2, 3, 0), (0, 2, 1, 3))
    assert loads.fit(2, 4) and not loads.fit(2, 8) and not loads.fit(1, 4)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"layers": 3}', '{"layers": [["x"]]}'])
def test_what_is_no_file_of_loads_is_refused(text):
    with pytest.raises(ConfigError, match="expert loads: cannot be read"):
        ExpertLoads.from_json(text)
    with pytest.raises(ConfigError, match="one is below 0"):
        ExpertLoads.from_json('{"layers": [[1, -1]]}')
