"""What a worker tells its peers of the rows of a batch."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from amoeba_sglang.control.worker.mirror import RowLedger
from amoeba_sglang.control.worker.step_record import Row


def rows_of_batch(batch: Any, requests: Any, ledger: RowLedger, page: int) -> tuple[Row, ...]:
    """Of upstream's ScheduleBatch, with those slots that the peers do not know yet; they do from
    now on. `requests`: the scheduler's ReqToTokenPool, on the host; `page`: tokens of a slot."""
    row_numbers = batch.req_pool_indices_cpu.tolist()
    assert len(batch.reqs) == len(row_numbers), "rows without a request are not served"
    table, generations = requests.req_to_token.numpy(), requests.req_generation
    rows = []
    for req, row, (seq_len, extend) in zip(
        batch.reqs, row_numbers, lengths_of_batch(batch), strict=True
    ):
        known = ledger.advance(
            row,
            int(generations[row]),
            req.kv.cache_protected_len,
            seq_len - extend,
            seq_len,
        )
        first = known // page
        slots = table[row, first * page : seq_len : page].astype(np.int64) // page
        rows.append(Row(row, seq_len, extend, first, slots))
    return tuple(rows)


def extends(batch: Any | None) -> bool:
    """Whether rows of the planned batch, if there is one, are prefilled."""
    return batch is not None and batch.forward_mode.is_extend()


def lengths_of_batch(batch: Any) -> Iterable[tuple[int, int]]:
    """Of every row its tokens after the step, and how many of them are new."""
    lengths = batch.seq_lens_cpu.tolist()
    new = batch.extend_lens if extends(batch) else [1] * len(lengths)
    return zip(lengths, new, strict=True)
