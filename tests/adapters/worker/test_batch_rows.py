"""What peers are told of the rows of a batch: what is new to them, and no more."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.adapters.worker.batch_rows import extends, lengths_of_batch, rows_of_batch
from amoeba_sglang.control.layout.locations import locations_at
from amoeba_sglang.control.worker.mirror import RowLedger, RowMirror

MOST = 64


class Home:
    """Two rows of a worker whose tokens grow; `slots` of each change when the cache rewrites it."""

    def __init__(self, page):
        self.page, self.length, self.protected = page, [0, 0], [0, 0]
        self.req_to_token = torch.zeros(3, MOST, dtype=torch.int32)
        self.req_generation = torch.ones(3, dtype=torch.int64)
        self.slots = [self.fresh(seed) for seed in range(2)]
        self.seed = 2

    def fresh(self, seed):
        return np.random.default_rng(seed).permutation(100)[: MOST // self.page] + 1

    def rewrite(self, place):
        """The cache has the tokens so far already: behind those that it owned before, the row
        points to its slots from now on."""
        first, count = self.protected[place] // self.page, self.length[place] // self.page
        self.slots[place][first:count] = self.fresh(self.seed)[first:count]
        self.protected[place], self.seed = count * self.page, self.seed + 1

    def reuse(self, place):
        """The request ends; another one gets its row."""
        self.slots[place], self.seed = self.fresh(self.seed), self.seed + 1
        self.length[place] = self.protected[place] = 0
        self.req_generation[place + 1] += 1

    def batch(self, news):
        """Both rows get so many new tokens."""
        for place, new in enumerate(news):
            self.length[place] += new
            row = locations_at(self.slots[place], 0, self.length[place], self.page)
            self.req_to_token[place + 1, : len(row)] = torch.from_numpy(row)
        extend = any(new > 1 for new in news)
        return SimpleNamespace(
            reqs=[
                SimpleNamespace(kv=SimpleNamespace(cache_protected_len=p)) for p in self.protected
            ],
            req_pool_indices_cpu=torch.tensor([1, 2]),
            seq_lens_cpu=torch.tensor(self.length),
            extend_lens=list(news),
            forward_mode=SimpleNamespace(is_extend=lambda: extend),
        )


STEP = st.tuples(
    st.sampled_from(["", "rewrite", "reuse"]),
    st.integers(0, 1),
    st.integers(1, 4),
    st.integers(1, 4),
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 4]), st.lists(STEP, min_size=1, max_size=8))
def test_a_mirror_that_hears_it_has_the_rows(page, steps):
    home, ledger, mirror = Home(page), RowLedger(), RowMirror()
    for event, place, *news in steps:
        if event:
            getattr(home, event)(place)
        for at, row in enumerate(rows_of_batch(home.batch(news), home, ledger, page)):
            assert (row.row, row.seq_len, row.extend_len) == (at + 1, home.length[at], news[at])
            mirror.apply(row.row, row.known, row.slots)
            filled = -(-home.length[at] // page)
            assert mirror.slots(row.row, filled).tolist() == home.slots[at][:filled].tolist()


def test_a_decode_step_tells_one_slot_of_each_row():
    home, ledger = Home(1), RowLedger()
    rows_of_batch(home.batch([5, 3]), home, ledger, 1)
    rows = rows_of_batch(home.batch([1, 1]), home, ledger, 1)
    assert [(row.known, row.slots.tolist()) for row in rows] == [
        (5, [home.slots[0][5]]),
        (3, [home.slots[1][3]]),
    ]


def test_a_batch_with_rows_of_nobody_is_a_bug():
    home = Home(1)
    batch = home.batch([1, 1])
    batch.reqs.pop()
    with pytest.raises(AssertionError, match="rows without a request"):
        rows_of_batch(batch, home, RowLedger(), 1)


def test_new_tokens_of_a_row_are_one_unless_prompts_are_among_them():
    home = Home(1)
    assert not extends(None)
    assert list(lengths_of_batch(home.batch([4, 1]))) == [(4, 4), (1, 1)]
    assert list(lengths_of_batch(home.batch([1, 1]))) == [(5, 1), (2, 1)]
