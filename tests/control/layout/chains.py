"""Chains and layouts for property tests."""

from hypothesis import strategies as st

from amoeba_sglang.control.layout.slots import DegreeChain

CHAINS = [
    DegreeChain(degrees)
    for degrees in [(1, 2), (1, 3), (1, 4), (1, 2, 4), (1, 2, 6), (1, 3, 6), (1, 2, 4, 8)]
]


def layouts(chain: DegreeChain, width: int = 0) -> st.SearchStrategy[tuple[int, ...]]:
    """Degrees per worker of an aligned block of `width` workers (0: the finest degree)."""

    def split(width: int) -> st.SearchStrategy[tuple[int, ...]]:
        whole = st.just((width,) * width)
        if width == 1:
            return whole
        part = chain.degrees[chain.degrees.index(width) - 1]
        parts = st.tuples(*[split(part)] * (width // part)).map(lambda found: sum(found, ()))
        return whole | parts

    return split(width or chain.finest)
